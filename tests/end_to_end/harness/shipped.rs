//! The shipped Envoy configurations. Only ports, the module, the authority of certificates and the name
//! server are changed.
//!
//! The hosts of `envoy/azure.yaml` are mocks, each behind a TLS server with a certificate
//! for `*.openai.azure.com` (`tests/fixtures/tls`, made with OpenSSL, good for a hundred years).

use super::settings::name_server;
use super::{Gateway, Name, NameServer, eventually};
use mock_azure::{Mock, MockConfig};
use serde_json::{Value, json};
use testbed::bootstrap::{Bootstrap, LOCAL, address, first_endpoint};
use testbed::programs::{module_path, root};
use testbed::{Envoy, Options, free_port};

/// The shipped backends: name, deployment, the variable of the key.
const BACKENDS: [(&str, &str, &str); 3] = [
    ("ptu-uksouth", "gpt-4o-ptu", "UKSOUTH_KEY"),
    ("payg-sweden", "gpt-4o", "SWEDEN_KEY"),
    ("payg-france", "gpt-4o", "FRANCE_KEY"),
];
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

/// Runs the text of `envoy/azure.yaml`, which a caller may have changed. `names` resolve as given, all others
/// to this machine. Returns when every name with an address is resolved.
pub(crate) async fn run_azure(text: &str, names: &[(&str, Name)]) -> Shipped {
    let mocks = mocks().await;
    let server = NameServer::start().await;
    let authority = root().join("tests/fixtures/tls/ca.pem");
    let text = text.replace(SHIPPED_AUTHORITY, authority.to_str().unwrap());
    let mut whole = Bootstrap::parse(&text);
    let mut tls_ports = Vec::new();
    for (name, _) in &mocks {
        server.set(&shipped_host(name), Name::At(vec![[127, 0, 0, 1].into()]));
        let port = free_port();
        let endpoint = first_endpoint(whole.cluster(name));
        endpoint["address"]["socket_address"]["port_value"] = json!(port);
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
    whole.json["typed_dns_resolver_config"] = name_server(server.port());
    let gateway = start(whole, mocks).await;
    // A request that comes before the name server's first response finds no host, and counts as a fault.
    for name in resolved {
        let hosts = format!("cluster.{name}.membership_total");
        eventually("a host and the dead one", async || gateway.envoy.stat(&hosts).await == 2).await;
    }
    Shipped { gateway, names: server, _tls: tls }
}

/// Runs `envoy/envoy.yaml` after `change`.
pub(crate) async fn run_local(change: impl FnOnce(&mut Bootstrap)) -> Gateway {
    let mocks = mocks().await;
    let mut whole = Bootstrap::local();
    for ((name, mock), (_, _, variable)) in mocks.iter().zip(BACKENDS) {
        first_endpoint(whole.cluster(name))["address"] = address(mock.port());
        assert!(LOCAL.contains(&format!("{variable}: {}\n", key_of(name))));
    }
    change(&mut whole);
    start(whole, mocks).await
}

async fn mocks() -> Vec<(String, Mock)> {
    let mut mocks = Vec::new();
    for (name, deployment, _) in BACKENDS {
        let mock = MockConfig::new(name).with_api_key(key_of(name)).with_deployments([deployment]);
        mocks.push((name.to_owned(), Mock::start(mock).await.unwrap()));
    }
    mocks
}

fn key_of(name: &str) -> String {
    format!("mock-key-of-{name}")
}

async fn start(mut whole: Bootstrap, mocks: Vec<(String, Mock)>) -> Gateway {
    whole.listen(free_port(), free_port());
    whole.run_module(module_path());
    let environment = BACKENDS.map(|(name, _, variable)| (variable.to_owned(), key_of(name)));
    let options = Options { environment: environment.into(), ..Options::default() };
    let envoy = Envoy::start(&whole, &options).await;
    Gateway::of(envoy.unwrap_or_else(|log| panic!("{log}")), mocks)
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
    let whole = Bootstrap {
        json: json!({
            "admin": {"address": address(free_port())},
            "static_resources": {"listeners": listeners, "clusters": clusters}
        }),
    };
    Envoy::start(&whole, &Options::default()).await.unwrap_or_else(|log| panic!("{log}"))
}
