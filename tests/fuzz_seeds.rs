//! Every seed of `fuzz/seeds` through its target: what fuzzing once found, and what it begins with, holds on every compiler.

use std::{fs, panic::catch_unwind, path::Path};

use fleetdrain::fuzzing::TARGETS;

fn seeds() -> impl AsRef<Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds")
}

#[test]
fn what_each_target_claims_holds_for_its_seeds() {
    for (name, target) in TARGETS {
        let mut count = 0;
        for seed in fs::read_dir(seeds().as_ref().join(name)).unwrap() {
            let path = seed.unwrap().path();
            let data = fs::read(&path).unwrap();
            assert!(catch_unwind(|| target(&data)).is_ok(), "{}", path.display());
            count += 1;
        }
        assert!(count > 2, "{name} has {count} seeds");
    }
}

#[test]
fn every_target_has_its_program_and_its_seeds_and_there_are_no_others() {
    let mut names = TARGETS.map(|(name, _)| name.to_owned());
    names.sort();
    let targets = seeds().as_ref().with_file_name("fuzz_targets");
    for dir in [seeds().as_ref(), &targets] {
        let mut found: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort();
        assert_eq!(found, names, "{}", dir.display());
    }
}
