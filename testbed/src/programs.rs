//! Where the programs are that tests and demo run.
//!
//! `make test` names them in the environment, so that they are looked for once. A test that is run on its own
//! (`cargo test --locked --test envoy_files`) asks the same tools itself: both ways find the same programs, and neither
//! skips a test because something is missing.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The root of the repository; the shipped Envoy configurations are relative to it.
pub fn root() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap())
}

/// The text of a file of this repository.
pub fn text_of(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Envoy: `SPILLWAY_ENVOY`, otherwise what `tools/envoy` finds or installs.
pub fn envoy_binary() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| named("SPILLWAY_ENVOY").unwrap_or_else(|| told_by("tools/envoy")))
}

/// The filter's module: `SPILLWAY_WASM`, otherwise what `make wasm` builds.
pub fn module_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| named("SPILLWAY_WASM").unwrap_or_else(built_module))
}

/// Node: `SPILLWAY_NODE`, otherwise what `tools/node` finds or installs.
pub fn node_binary() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| named("SPILLWAY_NODE").unwrap_or_else(|| told_by("tools/node")))
}

/// Python 3: `SPILLWAY_PYTHON`, otherwise the one on PATH.
pub fn python_binary() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| named("SPILLWAY_PYTHON").unwrap_or_else(|| PathBuf::from("python3")))
}

/// What `PYTHONPATH` needs for the OpenAI SDK: `SPILLWAY_PYTHON_SDK`, otherwise what `tools/python-sdk`
/// installs for [`python_binary`].
pub fn python_sdk() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let install =
        || answer_of("tools/python-sdk", Command::new(python_binary()).arg("tools/python-sdk"));
    PATH.get_or_init(|| named("SPILLWAY_PYTHON_SDK").unwrap_or_else(install))
}

/// The folder whose `node_modules` has the OpenAI SDK: `SPILLWAY_NODE_SDK`, otherwise what
/// `tools/node-sdk` installs.
pub fn node_sdk() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| named("SPILLWAY_NODE_SDK").unwrap_or_else(|| told_by("tools/node-sdk")))
}

fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn told_by(tool: &str) -> PathBuf {
    answer_of(tool, &mut Command::new(root().join(tool)))
}

fn answer_of(tool: &str, command: &mut Command) -> PathBuf {
    let response = command.current_dir(root()).stderr(Stdio::inherit()).output().unwrap();
    assert!(response.status.success(), "{tool} failed");
    PathBuf::from(String::from_utf8(response.stdout).unwrap().trim_end())
}

fn built_module() -> PathBuf {
    // What it prints belongs to the test's output, not to that of the test runner.
    let response = Command::new("make").arg("wasm").current_dir(root()).output().unwrap();
    assert!(
        response.status.success(),
        "make wasm failed:\n{}",
        String::from_utf8_lossy(&response.stderr)
    );
    let target = named("CARGO_TARGET_DIR").unwrap_or_else(|| PathBuf::from("target"));
    root().join(target).join("wasm32-wasip1/release/spillway.wasm")
}
