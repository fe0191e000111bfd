//! Envoy's listener in a file that Envoy watches, so that a test can replace it while requests run.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const FILE: &str = "listeners/listeners.json";

/// Writes the listener beside its place and moves it there: Envoy reads on moves only, and never
/// half a file.
pub(super) fn write(folder: &Path, listener: &Value) {
    let mut resource = listener.clone();
    resource["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
    let path = folder.join(FILE);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let temporary = folder.join("listeners.json");
    fs::write(&temporary, json!({"resources": [resource]}).to_string()).unwrap();
    fs::rename(temporary, path).unwrap();
}

/// Makes Envoy read its listeners from the file.
pub(super) fn source(folder: &Path) -> Value {
    let path = folder.join(FILE);
    json!({"lds_config": {
        "resource_api_version": "V3",
        "path_config_source": {
            "path": path,
            "watched_directory": {"path": path.parent().unwrap()}
        }
    }})
}
