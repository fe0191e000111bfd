//! The command itself: what it prints where, and its exit status.

use std::process::{Command, Output};

fn simulator(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_simulator")).args(arguments).output().unwrap()
}

#[test]
fn help_goes_to_standard_output_and_succeeds() {
    for option in ["--help", "-h"] {
        let output = simulator(&[option]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert!(output.stdout.starts_with(b"usage: simulator"), "{output:?}");
    }
}

#[test]
fn a_mistake_goes_to_standard_error_and_fails() {
    let output = simulator(&["--config", "a.json", "--per-second", "inf"]);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(output.stderr.starts_with(b"--per-second: found `inf`"), "{output:?}");
}
