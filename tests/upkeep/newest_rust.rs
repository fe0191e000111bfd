//! `tools/newest-rust` on machines that lack something: it says so, and changes nothing.

use super::{folder, printed, python, root, said, write_program};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

const TARGET: &str = "wasm32-wasip1";

#[test]
fn without_rustup_there_is_no_newest_rust_and_that_is_said() {
    let machine = Machine::new("none");
    let response = machine.newest_rust();
    assert_eq!(printed(&response), "");
    assert!(said(&response).contains("there is no rustup"), "{}", said(&response));
}

#[test]
fn where_rustup_may_install_nothing_the_newest_that_is_here_is_taken() {
    let machine = Machine::new("off");
    machine.has_rustup("exit 1");
    machine.has_rust("1.95.0", TARGET);
    let newest = machine.has_rust("1.101.2", TARGET);
    machine.has_rust("1.102.0-nightly", TARGET);
    machine.has_rust("1.103.0", "another-target");
    fs::write(machine.path("home/settings.toml"), "auto_install = \"disable\"\n").unwrap();
    let response = machine.newest_rust();
    assert_eq!(printed(&response), newest.to_str().unwrap());
    assert!(!machine.log().contains("install"), "{}", machine.log());
}

#[test]
fn without_a_network_the_reason_is_said_and_the_pinned_rust_is_no_newest_one() {
    let machine = Machine::new("offline");
    machine.has_rustup("echo 'error: no network' >&2; exit 1");
    machine.has_rust("1.95.0", TARGET);
    let response = machine.newest_rust();
    assert_eq!(printed(&response), "");
    assert!(said(&response).contains("error: no network"), "{}", said(&response));
    assert!(said(&response).contains("newer than the pinned"), "{}", said(&response));
}

#[test]
fn the_newest_rust_is_installed_beside_those_of_the_machine() {
    let machine = Machine::new("install");
    machine.has_rustup("echo 'stable-x86 - update available: 1.95.0 -> 1.101.2'");
    machine.has_rust("1.95.0", TARGET);
    let response = machine.newest_rust();
    assert!(response.status.success(), "{}", said(&response));
    let install = format!(
        "{}: toolchain install stable --profile minimal --target {TARGET} --no-self-update",
        machine.path("target/rust").display()
    );
    assert!(machine.log().contains(&install), "{}", machine.log());
}

#[test]
fn a_machine_whose_stable_rust_is_the_newest_needs_no_other() {
    let machine = Machine::new("current");
    machine.has_rustup("echo 'stable-x86 - up to date: 1.101.2 (58cf8f9c3 2026-10-13)'");
    let newest = machine.has_rust("1.101.2", TARGET);
    let response = machine.newest_rust();
    assert_eq!(printed(&response), newest.to_str().unwrap());
    assert!(!machine.log().contains("install"), "{}", machine.log());
}

/// A folder that plays a repository with its tools, and a machine with what the test says.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str) -> Self {
        let machine = Self(folder(name));
        for folder in ["tools", "bin", "home"] {
            fs::create_dir_all(machine.path(folder)).unwrap();
        }
        for file in ["tools/newest-rust", "tools/pypi.py"] {
            fs::copy(root().join(file), machine.path(file)).unwrap();
        }
        fs::write(machine.path("rust-toolchain.toml"), "channel = \"1.95.0\"\n").unwrap();
        machine
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.0.join(inside)
    }

    /// A rustup that writes down what it is asked and for which home, and then does `what`.
    fn has_rustup(&self, what: &str) {
        let (home, log) = (self.path("home"), self.path("log"));
        let text = format!(
            "#!/bin/sh\necho \"$RUSTUP_HOME: $*\" >>'{}'\n[ \"$1 $2\" = 'show home' ] && {{ echo '{}'; exit; }}\n{what}\n",
            log.display(),
            home.display()
        );
        write_program(&self.path("bin/rustup"), &text);
    }

    /// A toolchain of rustup's; its `bin` folder.
    fn has_rust(&self, version: &str, target: &str) -> PathBuf {
        let toolchain = self.path("home/toolchains").join(version);
        fs::create_dir_all(toolchain.join("lib/rustlib").join(target).join("lib")).unwrap();
        fs::create_dir_all(toolchain.join("bin")).unwrap();
        let text = format!("#!/bin/sh\necho 'rustc {version} (58cf8f9c3 2026-10-13)'\n");
        write_program(&toolchain.join("bin/rustc"), &text);
        toolchain.join("bin")
    }

    fn newest_rust(&self) -> Output {
        let response = Command::new(python())
            .arg(self.path("tools/newest-rust"))
            .env("PATH", self.path("bin"))
            .env("RUSTUP_HOME", self.path("home"))
            .env("HOME", self.path("home"))
            .env_remove("RUSTUP_AUTO_INSTALL")
            .output()
            .unwrap();
        assert!(response.status.success(), "{}", said(&response));
        response
    }

    /// What rustup was asked.
    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}
