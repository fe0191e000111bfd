//! What a test wants to be different, or wrong, with the cluster of a backend.

use super::watched;
use serde_json::{Value, json};
use std::path::Path;
use testbed::bootstrap::{DEAD_PORT, address, first_endpoint, protocol_options};

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
    /// Whether Envoy uses HTTP/2 (without TLS) to its hosts.
    pub(crate) http2: bool,
}

/// Where the hosts of a cluster come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hosts {
    /// The configuration has them: one, the backend's.
    Fixed,
    /// [`super::Settings::name_server`] resolves this name to them.
    Name(String),
    /// A file that Envoy watches lists them. It lists none until [`super::Gateway::set_hosts`].
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

impl Cluster {
    /// Changes the shipped cluster; `folder` is for the file that Envoy watches.
    pub(super) fn apply(&self, cluster: &mut Value, folder: &Path) {
        if self.http2 {
            protocol_options(cluster)["explicit_http_config"] =
                json!({"http2_protocol_options": {}});
        }
        let endpoints = cluster["load_assignment"]["endpoints"].as_array_mut().unwrap();
        if !self.has_dead_endpoint {
            endpoints.pop();
        }
        match &self.hosts {
            Hosts::Fixed => {}
            Hosts::None => drop(endpoints.remove(0)),
            Hosts::Name(host) => {
                first_endpoint(cluster)["address"]["socket_address"]["address"] = json!(host);
                cluster.as_object_mut().unwrap().remove("type");
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
                let name = cluster["name"].as_str().unwrap().to_owned();
                self.write_hosts(folder, &name, None);
                cluster.as_object_mut().unwrap().remove("load_assignment");
                cluster["type"] = json!("EDS");
                cluster["eds_cluster_config"] =
                    json!({"eds_config": watched::source(folder, &name)});
            }
        }
    }

    /// Writes the hosts of the cluster `name` into the file that Envoy watches.
    pub(super) fn write_hosts(&self, folder: &Path, name: &str, port: Option<u16>) {
        let endpoints = |priority: u32, port: u16| json!({"priority": priority, "lb_endpoints": [{"endpoint": {"address": address(port)}}]});
        let hosts = port.map(|port| endpoints(0, port));
        let dead = self.has_dead_endpoint.then(|| endpoints(1, DEAD_PORT));
        let endpoints: Vec<Value> = hosts.into_iter().chain(dead).collect();
        let resource = json!({"cluster_name": name, "endpoints": endpoints});
        watched::write(folder, name, "endpoint.v3.ClusterLoadAssignment", &resource);
    }
}
