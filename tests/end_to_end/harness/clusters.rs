//! The clusters of a test's Envoy: one for each backend, as the shipped files have them, and whatever a test
//! wants to be wrong with them.

use super::bootstrap::{address, filter};
use super::envoy::Settings;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Where the route sends a request for which no backend is left, or one whose backend the matcher lacks.
pub(crate) const CATCH_ALL: &str = "spillway_exhausted";

/// A port on which nobody listens: connections to it are refused at once.
const DEAD_PORT: u16 = 1;

/// How the cluster of one backend differs from those of the shipped files.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) hosts: Hosts,
    /// Whether it has a dead endpoint of lower priority beside its hosts.
    pub(crate) has_dead_endpoint: bool,
    /// Whether there is such a cluster at all.
    pub(crate) exists: bool,
    /// Whether the route's matcher knows the backend.
    pub(crate) is_in_matcher: bool,
    /// Whether its hosts are spoken to in HTTP/2 (without TLS).
    pub(crate) http2: bool,
}

/// Where the hosts of a cluster come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hosts {
    /// They are written in the configuration: the backend's one.
    Fixed,
    /// They are what this name resolves to at [`Settings::name_server`].
    Name(String),
    /// A file that Envoy watches lists them. It lists none until [`super::Envoy::set_hosts`].
    File,
    /// There are none.
    None,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            hosts: Hosts::Fixed,
            has_dead_endpoint: true,
            exists: true,
            is_in_matcher: true,
            http2: false,
        }
    }
}

/// Every cluster of the configuration; `folder` is for the files that Envoy watches.
pub(super) fn all(backends: &[(String, u16)], settings: &Settings, folder: &Path) -> Vec<Value> {
    let of_backends = backends.iter().filter_map(|(name, port)| {
        let cluster = settings.cluster_of(name);
        cluster.exists.then(|| backend(name, *port, &cluster, settings, folder))
    });
    let catch_all = settings.has_catch_all.then(|| {
        let mut cluster = common(CATCH_ALL, &Cluster::default(), settings);
        cluster["type"] = json!("STATIC");
        cluster["load_assignment"] = assignment(CATCH_ALL, vec![endpoints(0, DEAD_PORT)]);
        cluster
    });
    of_backends.chain(catch_all).collect()
}

/// The hosts of the cluster `name` as Envoy reads them from the file that it watches.
pub(super) fn write_hosts(folder: &Path, name: &str, port: Option<u16>, cluster: &Cluster) {
    let hosts = port.map(|port| endpoints(0, port));
    let mut resource = assignment(name, hosts.into_iter().chain(dead(cluster)).collect());
    resource["@type"] = json!("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment");
    let path = hosts_path(folder, name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let temporary = folder.join(format!("{name}.json"));
    fs::write(&temporary, json!({"resources": [resource]}).to_string()).unwrap();
    fs::rename(temporary, path).unwrap();
}

fn hosts_path(folder: &Path, name: &str) -> std::path::PathBuf {
    folder.join("hosts").join(name).join("hosts.json")
}

fn backend(name: &str, port: u16, settings: &Cluster, all: &Settings, folder: &Path) -> Value {
    let mut cluster = common(name, settings, all);
    let with_hosts =
        |hosts: Vec<Value>| assignment(name, hosts.into_iter().chain(dead(settings)).collect());
    match &settings.hosts {
        Hosts::Fixed => {
            cluster["type"] = json!("STATIC");
            cluster["load_assignment"] = with_hosts(vec![endpoints(0, port)]);
        }
        Hosts::None => {
            cluster["type"] = json!("STATIC");
            cluster["load_assignment"] = with_hosts(Vec::new());
        }
        Hosts::Name(host) => {
            let mut hosts = endpoints(0, port);
            hosts["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["address"] =
                json!(host);
            cluster["load_assignment"] = with_hosts(vec![hosts]);
            cluster["wait_for_warm_on_init"] = json!(false);
            cluster["cluster_type"] = json!({
                "name": "envoy.clusters.dns",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster",
                    "dns_lookup_family": "V4_PREFERRED",
                    "dns_refresh_rate": "0.1s",
                    "dns_failure_refresh_rate": {"base_interval": "0.1s", "max_interval": "0.1s"}
                }
            });
        }
        Hosts::File => {
            write_hosts(folder, name, None, settings);
            let path = hosts_path(folder, name);
            cluster["type"] = json!("EDS");
            cluster["eds_cluster_config"] = json!({"eds_config": {
                "resource_api_version": "V3",
                "path_config_source": {
                    "path": path,
                    "watched_directory": {"path": path.parent().unwrap()}
                }
            }});
        }
    }
    cluster
}

fn common(name: &str, cluster: &Cluster, settings: &Settings) -> Value {
    let protocol = if cluster.http2 { "http2_protocol_options" } else { "http_protocol_options" };
    json!({
        "name": name,
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": 10000,
            "max_pending_requests": 10000,
            "max_requests": 10000,
            "max_retries": 10000
        }]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {
                    "max_headers_count": 1000,
                    "max_response_headers_kb": 256
                },
                "explicit_http_config": {protocol: {}},
                "http_filters": [
                    {"name": "spillway", "typed_config": filter(&json!({"role": "attempt"}), settings)},
                    {"name": "codec", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
                    }}
                ]
            }
        }
    })
}

fn assignment(name: &str, endpoints: Vec<Value>) -> Value {
    json!({"cluster_name": name, "endpoints": endpoints})
}

fn endpoints(priority: u32, port: u16) -> Value {
    json!({"priority": priority, "lb_endpoints": [{"endpoint": {"address": address(port)}}]})
}

fn dead(cluster: &Cluster) -> Option<Value> {
    cluster.has_dead_endpoint.then(|| endpoints(1, DEAD_PORT))
}
