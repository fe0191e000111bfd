//! How the module is linked: as small as the linker can.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name, value: &str| var(name).is_ok_and(|found| found == value);
    if is("TARGET", "wasm32-wasip1") && is("PROFILE", "release") {
        // An index in the code has five bytes, room for any, until the linker shortens it to what it needs.
        // It does so only without debug information.
        println!("cargo::rustc-link-arg-cdylib=--compress-relocations");
        println!("cargo::rustc-link-arg-cdylib=--strip-debug");
    }
}
