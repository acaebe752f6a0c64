//! The binary: an allocator, and [`fleetdrain::cli`].

use std::process::ExitCode;

// Bodies and batches come and go on different threads, which is where the system's allocator is slowest; and what is large is to be
// gone when it is freed.
#[global_allocator]
static GLOBAL: fleetdrain::cli::Allocator = fleetdrain::cli::Allocator;

fn main() -> ExitCode {
    fleetdrain::cli::run(std::env::args_os())
}
