//! `tools/deny` with and without a network: what is not checked is said, and the rest is checked.

use super::{folder, python, root, said, write_program};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

const NO_NETWORK: &str = "echo 'fatal: no network' >&2; exit 1";

#[test]
fn with_a_network_advisories_are_checked_with_the_rest() {
    let place = Place::new("online", "exit 0", "exit 0");
    assert!(place.deny().status.success());
    assert!(place.checks().ends_with("advisories licenses bans sources"), "{}", place.checks());
}

#[test]
fn without_a_network_the_advisories_of_last_time_are_checked_and_that_is_said() {
    let place = Place::new("old", NO_NETWORK, "exit 0");
    fs::create_dir_all(place.0.join("target/advisory-db/advisory-db-1/crates")).unwrap();
    let response = place.deny();
    assert!(response.status.success());
    assert!(place.checks().ends_with("advisories licenses bans sources"), "{}", place.checks());
    assert!(said(&response).contains("of the last fetch"), "{}", said(&response));
}

#[test]
fn advisories_that_cannot_be_had_are_never_left_out_in_silence() {
    let place = Place::new("offline", NO_NETWORK, "exit 0");
    let response = place.deny();
    assert!(response.status.success());
    assert!(place.checks().ends_with("licenses bans sources"), "{}", place.checks());
    assert!(!place.checks().contains("advisories "), "{}", place.checks());
    let line = "ADVISORIES ARE NOT CHECKED, as the database cannot be had: fatal: no network";
    assert!(said(&response).lines().any(|said| said == line), "{}", said(&response));
}

#[test]
fn what_is_not_allowed_is_an_error() {
    let place = Place::new("red", NO_NETWORK, "exit 4");
    assert!(!place.deny().status.success());
}

/// A repository of which only the tool is real.
struct Place(PathBuf);

impl Place {
    /// A place whose cargo-deny does `fetch` and `check` as these lines of a shell say.
    fn new(name: &str, fetch: &str, check: &str) -> Self {
        let place = Self(folder(&format!("deny-{name}")));
        for folder in ["tools", "bin", "target/tools/bin"] {
            fs::create_dir_all(place.0.join(folder)).unwrap();
        }
        for file in ["tools/deny", "tools/pypi.py"] {
            fs::copy(root().join(file), place.0.join(file)).unwrap();
        }
        let tool = fs::read_to_string(root().join("tools/deny")).unwrap();
        let version = tool.split("VERSION = \"").nth(1).and_then(|rest| rest.split('"').next());
        let text = format!(
            "#!/bin/sh\necho \"$*\" >>log\ncase $1 in\n--version) echo \"cargo-deny {}\" ;;\nfetch) {fetch} ;;\n*) {check} ;;\nesac\n",
            version.unwrap()
        );
        write_program(&place.0.join("target/tools/bin/cargo-deny"), &text);
        write_program(&place.0.join("bin/cargo"), "#!/bin/sh\nexit 0\n");
        place
    }

    fn deny(&self) -> Output {
        let mut tool = Command::new(python());
        tool.arg(self.0.join("tools/deny")).env("PATH", self.0.join("bin")).output().unwrap()
    }

    /// What cargo-deny was asked to check.
    fn checks(&self) -> String {
        let log = fs::read_to_string(self.0.join("log")).unwrap();
        log.lines().find(|line| line.contains(" check ")).unwrap_or_default().to_owned()
    }
}
