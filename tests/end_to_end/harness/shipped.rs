//! The shipped Envoy configurations, changed in nothing but places: ports, the module, the authority of
//! certificates, the name server.
//!
//! Behind the hosts of `envoy/azure.yaml` stand mocks, and before each of them a TLS server with a certificate
//! for `*.openai.azure.com` (`tests/fixtures/tls`, made with OpenSSL, good for a hundred years).

use super::bootstrap::{address, name_server};
use super::envoy::free_port;
use super::{Client, Envoy, Gateway, Name, NameServer, Settings, eventually};
use crate::support::{module_path, root};
use mock_azure::{Mock, MockConfig};
use serde_json::{Value, json};
use std::fs;

/// The shipped backends: name, deployment, the variable of the key.
const BACKENDS: [(&str, &str, &str); 3] = [
    ("ptu-uksouth", "gpt-4o-ptu", "UKSOUTH_KEY"),
    ("payg-sweden", "gpt-4o", "SWEDEN_KEY"),
    ("payg-france", "gpt-4o", "FRANCE_KEY"),
];
const SHIPPED_MODULE: &str = "target/wasm32-wasip1/release/spillway.wasm";
const SHIPPED_AUTHORITY: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A gateway of a shipped configuration, and what its backends' names and connections need.
pub(crate) struct Shipped {
    pub(crate) gateway: Gateway,
    pub(crate) names: NameServer,
    _tls: Envoy,
}

/// The host of a backend of `envoy/azure.yaml`.
pub(crate) fn shipped_host(backend: &str) -> String {
    let place = backend.split_once('-').unwrap().1;
    format!("contoso-{place}.openai.azure.com")
}

/// The text of a shipped file.
pub(crate) fn shipped_file(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Runs the text of `envoy/azure.yaml`, in which a reader may have changed something, with names that
/// are known differently: the others are this machine's. Returns when what has an address is resolved.
pub(crate) async fn run_azure(text: &str, names: &[(&str, Name)]) -> Shipped {
    let (mocks, mut settings) = mocks().await;
    let server = NameServer::start().await;
    let mut whole = placed(text);
    let mut tls_ports = Vec::new();
    for (name, _) in &mocks {
        server.set(&shipped_host(name), Name::At(vec![[127, 0, 0, 1].into()]));
        let port = free_port();
        socket_address(&mut whole, name)["port_value"] = json!(port);
        tls_ports.push(port);
    }
    for (backend, name) in names {
        server.set(&shipped_host(backend), name.clone());
    }
    let is_resolved = |backend: &str| {
        let told = names.iter().find(|(found, _)| *found == backend);
        told.is_none_or(|(_, name)| matches!(name, Name::At(addresses) if !addresses.is_empty()))
    };
    let resolved: Vec<String> =
        mocks.iter().map(|(name, _)| name.clone()).filter(|name| is_resolved(name)).collect();
    let tls = start_tls(&tls_ports, &mocks).await;
    whole["typed_dns_resolver_config"] = name_server(server.port());
    let gateway = start(whole, mocks, &mut settings).await;
    // A request that comes before the name server's first answer finds no host, and counts as a fault.
    for name in resolved {
        let hosts = format!("cluster.{name}.membership_total");
        eventually("a host and the dead one", async || gateway.envoy.stat(&hosts).await == 2).await;
    }
    Shipped { gateway, names: server, _tls: tls }
}

/// Runs `envoy/envoy.yaml` after `change`.
pub(crate) async fn run_local(change: impl FnOnce(&mut Value)) -> Gateway {
    let (mocks, mut settings) = mocks().await;
    let mut whole = placed(&shipped_file("envoy/envoy.yaml"));
    for (name, mock) in &mocks {
        socket_address(&mut whole, name)["port_value"] = json!(mock.port());
        let (_, _, variable) = BACKENDS.iter().find(|(found, ..)| found == name).unwrap();
        let keys = "mock-key-of-";
        assert!(whole.to_string().contains(&format!(r#""{variable}":"{keys}{name}""#)));
    }
    change(&mut whole);
    start(whole, mocks, &mut settings).await
}

/// The first address of a backend's cluster.
pub(crate) fn socket_address<'a>(whole: &'a mut Value, backend: &str) -> &'a mut Value {
    let cluster = cluster(whole, backend);
    &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
}

/// A backend's cluster.
pub(crate) fn cluster<'a>(whole: &'a mut Value, backend: &str) -> &'a mut Value {
    let clusters = whole["static_resources"]["clusters"].as_array_mut().unwrap();
    clusters.iter_mut().find(|cluster| cluster["name"] == backend).unwrap()
}

async fn mocks() -> (Vec<(String, Mock)>, Settings) {
    let (mut mocks, mut settings) = (Vec::new(), Settings::default());
    for (name, deployment, variable) in BACKENDS {
        let key = format!("mock-key-of-{name}");
        let mock = MockConfig::new(name).with_api_key(&key).with_deployments([deployment]);
        mocks.push((name.to_owned(), Mock::start(mock).await.unwrap()));
        settings.environment.push((variable.to_owned(), key));
    }
    (mocks, settings)
}

/// The configuration with the module and the authority of this machine.
fn placed(text: &str) -> Value {
    assert!(text.contains(SHIPPED_MODULE));
    let authority = root().join("tests/fixtures/tls/ca.pem");
    let text = text
        .replace(SHIPPED_MODULE, module_path().to_str().unwrap())
        .replace(SHIPPED_AUTHORITY, authority.to_str().unwrap());
    serde_yaml_ng::from_str(&text).unwrap()
}

async fn start(mut whole: Value, mocks: Vec<(String, Mock)>, settings: &mut Settings) -> Gateway {
    let (port, admin_port) = (free_port(), free_port());
    whole["static_resources"]["listeners"][0]["address"] = address(port);
    whole["admin"]["address"] = address(admin_port);
    let envoy = Envoy::start_with(&whole, port, admin_port, settings).await;
    let envoy = envoy.unwrap_or_else(|log| panic!("{log}"));
    Gateway::new(Client::new(port), envoy, whole, mocks)
}

/// TLS servers on these ports, each before one of the mocks.
async fn start_tls(ports: &[u16], mocks: &[(String, Mock)]) -> Envoy {
    let file = |name: &str| json!({"filename": root().join("tests/fixtures/tls").join(name)});
    let listener = |port: u16, name: &str| {
        json!({
            "name": name,
            "address": address(port),
            "filter_chains": [{
                "transport_socket": {"name": "tls", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    "common_tls_context": {"tls_certificates": [{
                        "certificate_chain": file("server.pem"),
                        "private_key": file("server.key")
                    }]}
                }},
                "filters": [{"name": "tcp", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": name,
                    "cluster": name
                }}]
            }]
        })
    };
    let cluster = |name: &str, port: u16| {
        json!({
            "name": name,
            "type": "STATIC",
            "load_assignment": {"cluster_name": name, "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address(port)}}]}
            ]}
        })
    };
    let listeners: Vec<Value> =
        ports.iter().zip(mocks).map(|(port, (name, _))| listener(*port, name)).collect();
    let clusters: Vec<Value> =
        mocks.iter().map(|(name, mock)| cluster(name, mock.port())).collect();
    let admin_port = free_port();
    let whole = json!({
        "admin": {"address": address(admin_port)},
        "static_resources": {"listeners": listeners, "clusters": clusters}
    });
    let started = Envoy::start_with(&whole, ports[0], admin_port, &Settings::default()).await;
    started.unwrap_or_else(|log| panic!("{log}"))
}
