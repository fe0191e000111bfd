//! An Envoy configuration, and the parts of it that a test, the demo or the benchmark changes.
//!
//! Every Envoy that runs here has a shipped configuration with such changes, so that what is shipped is what is
//! tested, shown and measured.

use serde_json::{Map, Value, json};
use std::path::Path;

/// The shipped configuration for mock backends on this machine.
pub const LOCAL: &str = include_str!("../../envoy/envoy.yaml");
/// The cluster for requests that the route's matcher sends nowhere else.
pub const CATCH_ALL: &str = "spillway_exhausted";
/// A port on which nobody listens: connections to it are refused at once.
pub const DEAD_PORT: u16 = 1;

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const MATCHER: &str = "/route/inline_cluster_specifier_plugin/extension/typed_config/cluster_matcher/matcher_tree/exact_match_map/map";

/// A whole configuration. Its methods panic when it lacks the part that they are about.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// All of it.
    pub json: Value,
}

impl Bootstrap {
    /// Reads YAML, in which an alias stands for a copy.
    pub fn parse(yaml: &str) -> Self {
        Self { json: serde_yaml_ng::from_str(yaml).expect("YAML") }
    }

    /// [`LOCAL`].
    pub fn local() -> Self {
        Self::parse(LOCAL)
    }

    /// The port of the first listener.
    pub fn port(&self) -> u16 {
        port_in(part(&self.json, "/static_resources/listeners/0"))
    }

    /// The port of the administration interface.
    pub fn admin_port(&self) -> u16 {
        port_in(part(&self.json, "/admin"))
    }

    /// The port of the first endpoint of a cluster.
    pub fn backend_port(&self, cluster: &str) -> u16 {
        let clusters = part(&self.json, "/static_resources/clusters").as_array().expect("clusters");
        let found = clusters.iter().find(|found| found["name"] == cluster);
        let found = found.unwrap_or_else(|| panic!("no cluster {cluster}"));
        port_in(part(found, "/load_assignment/endpoints/0/lb_endpoints/0/endpoint"))
    }

    /// Makes the first listener and the administration interface listen on these ports of 127.0.0.1.
    pub fn listen(&mut self, port: u16, admin_port: u16) {
        self.listener()["address"] = address(port);
        self.json["admin"]["address"] = address(admin_port);
    }

    /// The first listener.
    pub fn listener(&mut self) -> &mut Value {
        part_mut(&mut self.json, "/static_resources/listeners/0")
    }

    /// The connection manager of the first listener.
    pub fn manager(&mut self) -> &mut Value {
        manager(self.listener())
    }

    /// The routes of the first listener.
    pub fn routes(&mut self) -> &mut Vec<Value> {
        list(self.manager(), "/route_config/virtual_hosts/0/routes")
    }

    /// The clusters.
    pub fn clusters(&mut self) -> &mut Vec<Value> {
        list(&mut self.json, "/static_resources/clusters")
    }

    /// The cluster of this name.
    pub fn cluster(&mut self, name: &str) -> &mut Value {
        let found = self.clusters().iter_mut().find(|cluster| cluster["name"] == name);
        found.unwrap_or_else(|| panic!("no cluster {name}"))
    }

    /// Changes Spillway's plugin in the listener and in every cluster.
    pub fn each_plugin(&mut self, mut change: impl FnMut(&mut Value)) {
        below(&mut self.json, "vm_config", &mut change);
    }

    /// Makes every plugin run this module.
    pub fn run_module(&mut self, path: &Path) {
        self.each_plugin(|plugin| plugin["vm_config"]["code"]["local"]["filename"] = json!(path));
    }

    /// Gives the gateway a configuration.
    pub fn configure(&mut self, configuration: &Value) {
        configure(self.listener(), configuration);
    }

    /// Has exactly these backends: names and ports of 127.0.0.1. Each has a cluster and its place in the routes.
    pub fn set_backends<'a>(&mut self, backends: impl IntoIterator<Item = (&'a str, u16)>) {
        let pattern = self.clusters().first().expect("a cluster").clone();
        let catch_all = self.cluster(CATCH_ALL).clone();
        let backends: Vec<(&str, u16)> = backends.into_iter().collect();
        let clusters = backends.iter().map(|(name, port)| {
            let mut cluster = pattern.clone();
            cluster["name"] = json!(name);
            cluster["load_assignment"]["cluster_name"] = json!(name);
            first_endpoint(&mut cluster)["address"] = address(*port);
            cluster
        });
        *self.clusters() = clusters.chain([catch_all]).collect();
        for route in self.routes() {
            let matcher = matcher(route);
            let pattern = matcher.values().next().expect("a backend").clone();
            let places = backends.iter().map(|(name, _)| {
                let mut place = pattern.clone();
                place["action"]["typed_config"]["cluster"] = json!(name);
                ((*name).to_owned(), place)
            });
            *matcher = places.collect();
        }
    }
}

/// A port of 127.0.0.1 as Envoy writes it.
pub fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

/// The connection manager of a listener.
pub fn manager(listener: &mut Value) -> &mut Value {
    part_mut(listener, "/filter_chains/0/filters/0/typed_config")
}

/// Gives the gateway of a listener a configuration.
pub fn configure(listener: &mut Value, configuration: &Value) {
    let filters = list(manager(listener), "/http_filters").iter_mut();
    let mut plugins = filters.filter_map(|filter| filter.pointer_mut("/typed_config/config"));
    let plugin = plugins.find(|plugin| plugin.get("vm_config").is_some()).expect("Spillway");
    plugin["configuration"]["value"] = json!(configuration.to_string());
}

/// The cluster of each backend in a route's matcher.
pub fn matcher(route: &mut Value) -> &mut Map<String, Value> {
    part_mut(route, MATCHER).as_object_mut().expect("a map")
}

/// The protocol options of a cluster, with its filters.
pub fn protocol_options(cluster: &mut Value) -> &mut Value {
    &mut cluster["typed_extension_protocol_options"][OPTIONS]
}

/// The first endpoint of a cluster, with its address.
pub fn first_endpoint(cluster: &mut Value) -> &mut Value {
    part_mut(cluster, "/load_assignment/endpoints/0/lb_endpoints/0/endpoint")
}

fn port_in(place: &Value) -> u16 {
    let port = part(place, "/address/socket_address/port_value").as_u64();
    port.and_then(|port| u16::try_from(port).ok()).expect("a port")
}

fn part<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or_else(|| panic!("the configuration lacks {pointer}"))
}

fn part_mut<'a>(value: &'a mut Value, pointer: &str) -> &'a mut Value {
    value.pointer_mut(pointer).unwrap_or_else(|| panic!("the configuration lacks {pointer}"))
}

fn list<'a>(value: &'a mut Value, pointer: &str) -> &'a mut Vec<Value> {
    part_mut(value, pointer).as_array_mut().expect("a list")
}

/// Changes every object that has this key.
fn below(value: &mut Value, key: &str, change: &mut impl FnMut(&mut Value)) {
    if value.get(key).is_some() {
        change(value);
    }
    match value {
        Value::Object(map) => map.values_mut().for_each(|inner| below(inner, key, change)),
        Value::Array(values) => values.iter_mut().for_each(|inner| below(inner, key, change)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_the_plugin_gets_the_module() {
        let mut whole = Bootstrap::local();
        whole.run_module(Path::new("/a b/c.wasm"));
        let text = whole.json.to_string();
        assert_eq!(text.matches(r#""filename":"/a b/c.wasm""#).count(), 5);
        assert_eq!(text.matches("filename").count(), 5);
    }

    #[test]
    fn backends_replace_those_that_were_there_and_keep_the_catch_all() {
        let mut whole = Bootstrap::local();
        whole.set_backends([("one", 7001), ("two", 7002)]);
        let names = ["one", "two", CATCH_ALL];
        assert!(whole.clusters().iter().map(|cluster| &cluster["name"]).eq(names));
        assert_eq!((whole.backend_port("one"), whole.backend_port("two")), (7001, 7002));
        assert_eq!(whole.routes().len(), 2);
        for route in whole.routes() {
            let places = matcher(route);
            assert!(places.keys().eq(["one", "two"]));
            assert_eq!(places["two"]["action"]["typed_config"]["cluster"], "two");
        }
        assert!(!whole.json.to_string().contains("sweden\"}"));
    }

    #[test]
    fn ports_are_read_from_where_they_are_written() {
        let mut whole = Bootstrap::local();
        assert_eq!((whole.port(), whole.admin_port()), (10_000, 9901));
        whole.listen(7001, 7002);
        assert_eq!((whole.port(), whole.admin_port()), (7001, 7002));
    }

    #[test]
    fn the_gateway_is_configured_whatever_filters_stand_before_it() {
        let mut whole = Bootstrap::local();
        let before = json!({"name": "another", "typed_config": {}});
        list(whole.manager(), "/http_filters").insert(0, before);
        whole.configure(&json!({"pools": []}));
        let plugin = part(whole.manager(), "/http_filters/1/typed_config/config");
        assert_eq!(plugin["configuration"]["value"], r#"{"pools":[]}"#);
    }
}
