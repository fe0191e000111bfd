//! Configuration files that Envoy watches, so that a test can replace a part while requests run.

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Writes a resource of a type of Envoy's beside its place and moves it there: Envoy reads on moves only, and never
/// half a file.
pub(super) fn write(folder: &Path, name: &str, r#type: &str, resource: &Value) {
    let mut resource = resource.clone();
    resource["@type"] = json!(format!("type.googleapis.com/envoy.config.{type}"));
    let place = place(folder, name);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    let beside = folder.join(format!("{name}.json"));
    fs::write(&beside, json!({"resources": [resource]}).to_string()).unwrap();
    fs::rename(beside, place).unwrap();
}

/// Makes Envoy read resources from the file of this name.
pub(super) fn source(folder: &Path, name: &str) -> Value {
    let path = place(folder, name);
    json!({
        "resource_api_version": "V3",
        "path_config_source": {"path": path, "watched_directory": {"path": path.parent().unwrap()}}
    })
}

/// Each file has a folder of its own, since Envoy watches folders.
fn place(folder: &Path, name: &str) -> PathBuf {
    folder.join("watched").join(name).join("resources.json")
}
