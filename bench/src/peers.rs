//! Other gateways, which are measured on request: each with one worker and its default settings.

use crate::gateway::Program;
use crate::upstream::EVENTS;
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What clients authenticate with; LiteLLM does not start without.
pub(crate) const CLIENT_KEY: &str = "the-key-of-this-client";

/// Where the peers were installed.
pub(crate) struct Peers {
    /// Their names and versions.
    pub(crate) versions: String,
    python: PathBuf,
    litellm: PathBuf,
    node: PathBuf,
    portkey: PathBuf,
}

impl Peers {
    /// Installs what is missing.
    ///
    /// # Errors
    /// When that fails; standard error has the reason.
    pub(crate) fn install() -> io::Result<Self> {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/peers");
        let output = Command::new("python3").arg(tool).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(io::Error::other("the peers could not be installed"));
        }
        let places: Value = serde_json::from_slice(&output.stdout)?;
        let place = |name: &str| {
            let place = places[name].as_str().map(str::to_owned);
            place.ok_or_else(|| io::Error::other("tools/peers does not say where they are"))
        };
        Ok(Self {
            versions: place("versions")?,
            python: place("python")?.into(),
            litellm: place("litellm")?.into(),
            node: place("node")?.into(),
            portkey: place("portkey")?.into(),
        })
    }

    /// The command that runs LiteLLM, with its configuration in `folder`.
    ///
    /// # Errors
    /// When nothing can be written.
    pub(crate) fn litellm(
        &self,
        port: u16,
        upstream_port: u16,
        folder: &Path,
    ) -> io::Result<Command> {
        let path = folder.join("litellm.yaml");
        fs::write(&path, litellm_configuration(upstream_port).to_string())?;
        let mut command = Command::new(&self.python);
        command
            .args(["-c", "from litellm import run_server; run_server()", "--config"])
            .arg(&path)
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--num_workers", "1"])
            .env("PYTHONPATH", &self.litellm)
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True") // asks nobody on the Internet
            .env("LITELLM_LOG", "ERROR");
        Ok(command)
    }

    /// The command that runs Portkey's gateway.
    pub(crate) fn portkey(&self, port: u16) -> Command {
        let loopback = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/loopback.cjs");
        let mut command = Command::new(&self.node);
        command
            .arg("--require")
            .arg(loopback)
            .arg(&self.portkey)
            .args([&format!("--port={port}"), "--headless"])
            .env("NODE_ENV", "production");
        command
    }
}

/// JSON is YAML, too.
fn litellm_configuration(upstream_port: u16) -> Value {
    json!({
        "model_list": [{
            "model_name": "gpt-4o",
            "litellm_params": {
                "model": "openai/gpt-4o",
                "api_base": format!("http://127.0.0.1:{upstream_port}/v1"),
                "api_key": "the-key-of-a-backend"
            }
        }],
        "general_settings": {
            "master_key": CLIENT_KEY,
            // Otherwise the upstream would not know that events are requested.
            "forward_client_headers_to_llm_api": true
        }
    })
}

/// The headers that clients of `program` need in addition to the usual ones.
pub(crate) fn headers(program: Program, upstream_port: u16) -> String {
    match program {
        Program::Portkey => format!(
            "x-portkey-provider: openai\r\nx-portkey-custom-host: http://127.0.0.1:{upstream_port}/v1\r\n\
             x-portkey-forward-headers: {EVENTS}\r\n"
        ),
        _ => String::new(),
    }
}
