//! The binary: an allocator, and [`fleetdrain::cli`].

use std::process::ExitCode;

// Bodies and batches come and go on different threads, which is where the system's allocator is slowest.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fleetdrain::cli::run(std::env::args_os())
}
