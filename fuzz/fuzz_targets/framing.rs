#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleetdrain::fuzzing::run("framing", data));
