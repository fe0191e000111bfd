//! What `make release` publishes: a module, its checksum, and an image that a registry accepts.

use super::{folder, printed, python, root, said};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MODULE: &[u8] = b"\0asm\x01\0\0\0 of a test";

#[test]
fn the_image_has_the_module_as_plugin_wasm_in_one_layer() {
    let folder = released("layer");
    let image = Image::read(&folder);
    let layers = image.manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1);
    assert_eq!(layers[0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    let layer = image.path(&layers[0]);
    assert_eq!(tar(&["--list", "--gzip", "--file", &layer]), b"plugin.wasm\n");
    assert_eq!(tar(&["--extract", "--gzip", "--to-stdout", "--file", &layer]), MODULE);
}

#[test]
fn every_digest_and_size_in_the_image_is_right() {
    let image = Image::read(&released("digests"));
    let manifest = &image.index["manifests"][0];
    let layer = &image.manifest["layers"][0];
    for described in [manifest, &image.manifest["config"], layer] {
        let blob = fs::read(image.path(described)).unwrap();
        assert_eq!(described["digest"], format!("sha256:{}", sha256(&image.path(described))));
        assert_eq!(described["size"], blob.len());
    }
    let unpacked = image.folder.clone() + "/layer.tar";
    fs::write(&unpacked, gunzip(&image.path(layer))).unwrap();
    let config: Value =
        serde_json::from_slice(&fs::read(image.path(&image.manifest["config"])).unwrap()).unwrap();
    assert_eq!(
        config["rootfs"]["diff_ids"],
        serde_json::json!([format!("sha256:{}", sha256(&unpacked))])
    );
    let blobs = fs::read_dir(image.folder.clone() + "/blobs/sha256").unwrap().count();
    assert_eq!(blobs, 3, "a blob that nothing names");
}

#[test]
fn the_version_of_the_workspace_names_module_and_image() {
    let folder = released("version");
    let version = env!("CARGO_PKG_VERSION");
    let module = folder.join(format!("spillway-{version}.wasm"));
    assert_eq!(fs::read(&module).unwrap(), MODULE);
    let sum = format!("{}  spillway-{version}.wasm\n", sha256(module.to_str().unwrap()));
    assert_eq!(fs::read_to_string(folder.join("SHA256SUMS")).unwrap(), sum);
    let name = &Image::read(&folder).index["manifests"][0]["annotations"];
    assert_eq!(name["org.opencontainers.image.ref.name"], version);
}

#[test]
fn the_same_module_makes_the_same_release() {
    let all = |name: &str| -> BTreeSet<String> {
        let blobs = released(name).join("image/blobs/sha256");
        let files = fs::read_dir(blobs).unwrap();
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(all("once"), all("twice"));
}

#[test]
fn what_is_no_module_is_not_released() {
    assert!(refused("none", b"<html>").contains("no WebAssembly module"));
}

#[test]
fn a_module_with_paths_of_the_machine_is_not_released() {
    let built_elsewhere = [MODULE, b"/home/somebody/.cargo/registry/src/a.rs"].concat();
    assert!(refused("paths", &built_elsewhere).contains("build it with `make wasm`"));
}

/// What is said of a module that is not released.
fn refused(name: &str, module: &[u8]) -> String {
    let folder = folder(name);
    fs::write(folder.join("module"), module).unwrap();
    let mut tool = Command::new(python());
    let response = tool
        .arg(root().join("tools/release"))
        .args([folder.join("module"), folder.join("files")])
        .env("CARGO_HOME", "/home/somebody/.cargo")
        .output()
        .unwrap();
    assert!(!response.status.success());
    assert!(!folder.join("files").exists());
    said(&response)
}

/// The folder that `tools/release` fills.
fn released(name: &str) -> PathBuf {
    let folder = folder(name);
    fs::write(folder.join("module"), MODULE).unwrap();
    let files = folder.join("files");
    let mut tool = Command::new(python());
    let response = tool
        .arg(root().join("tools/release"))
        .args([&folder.join("module"), &files])
        .output()
        .unwrap();
    assert!(response.status.success(), "{}", said(&response));
    files
}

struct Image {
    folder: String,
    index: Value,
    manifest: Value,
}

impl Image {
    fn read(released: &Path) -> Self {
        let folder = released.join("image");
        let read = |path: &Path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let layout: Value = read(&folder.join("oci-layout"));
        assert_eq!(layout["imageLayoutVersion"], "1.0.0");
        let mut image = Self {
            index: read(&folder.join("index.json")),
            manifest: Value::Null,
            folder: folder.to_str().unwrap().to_owned(),
        };
        image.manifest = read(Path::new(&image.path(&image.index["manifests"][0])));
        image
    }

    /// The file with what a descriptor describes.
    fn path(&self, described: &Value) -> String {
        let digest = described["digest"].as_str().unwrap();
        format!("{}/blobs/sha256/{}", self.folder, digest.strip_prefix("sha256:").unwrap())
    }
}

fn tar(arguments: &[&str]) -> Vec<u8> {
    let response = Command::new("tar").args(arguments).output().unwrap();
    assert!(response.status.success(), "{}", said(&response));
    response.stdout
}

fn sha256(path: &str) -> String {
    let script =
        "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())";
    printed(&Command::new(python()).args(["-c", script, path]).output().unwrap())
}

fn gunzip(path: &str) -> Vec<u8> {
    let script = "import gzip, sys; sys.stdout.buffer.write(gzip.open(sys.argv[1]).read())";
    Command::new(python()).args(["-c", script, path]).output().unwrap().stdout
}
