//! How a test's Envoy is set up: as the shipped file has it, without the settings that guard the filter from clients
//! (the filter must not need them), and with the changes that a test wants.

use super::clusters::Cluster;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use testbed::bootstrap::{Bootstrap, CATCH_ALL, address, configure, matcher};
use testbed::programs::module_path;
use testbed::{Options, free_port};

/// How Envoy is set up, besides Spillway's own configuration.
#[derive(Clone)]
pub(crate) struct Settings {
    /// How many workers there are; with more than one, new connections go to them in turn.
    pub(crate) workers: usize,
    /// Whether the listener is read from a file that is watched.
    pub(crate) reloadable: bool,
    /// How long connections live on after their listener was replaced.
    pub(crate) drain_time: Duration,
    /// Whether Spillway's configuration is given as a `Struct` instead of a `StringValue`.
    pub(crate) as_struct: bool,
    pub(crate) per_try_timeout: Duration,
    pub(crate) per_try_idle_timeout: Duration,
    pub(crate) body_limit_bytes: u32,
    /// The fields of an access log, by name: each a format string of Envoy's. Empty: no log.
    pub(crate) access_log: Vec<(&'static str, &'static str)>,
    /// The environment that the filter sees; Envoy's own configuration only names the variables.
    pub(crate) environment: Vec<(String, String)>,
    /// The filters before Spillway.
    pub(crate) filters_before: Vec<Value>,
    /// How long Envoy waits after a fault of the filter until it loads it again.
    pub(crate) reload_interval: Duration,
    /// The clusters that differ from the usual, by their backends' names.
    pub(crate) clusters: BTreeMap<String, Cluster>,
    /// Whether there is a cluster for requests that the route's matcher sends nowhere.
    pub(crate) has_catch_all: bool,
    /// The port of the only name server that Envoy asks.
    pub(crate) name_server: Option<u16>,
    /// Spillway's configurations of further listeners, all in front of the same clusters.
    pub(crate) more_listeners: Vec<Value>,
    /// What else is changed of Envoy's configuration before it starts.
    pub(crate) adjust: Option<Adjust>,
}

/// Changes Envoy's configuration.
pub(crate) type Adjust = Arc<dyn Fn(&mut Bootstrap) + Send + Sync>;

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 1,
            reloadable: false,
            drain_time: Duration::from_secs(600),
            as_struct: false,
            per_try_timeout: Duration::from_secs(20),
            per_try_idle_timeout: Duration::from_secs(20),
            body_limit_bytes: 32 * 1024 * 1024,
            access_log: Vec::new(),
            environment: Vec::new(),
            filters_before: Vec::new(),
            reload_interval: Duration::from_millis(30),
            clusters: BTreeMap::new(),
            has_catch_all: true,
            name_server: None,
            more_listeners: Vec::new(),
            adjust: None,
        }
    }
}

impl Settings {
    /// Changes the cluster of a backend.
    pub(crate) fn cluster(&mut self, backend: &str, change: impl FnOnce(&mut Cluster)) {
        change(self.clusters.entry(backend.to_owned()).or_default());
    }

    /// The settings of the cluster of a backend.
    pub(super) fn cluster_of(&self, backend: &str) -> Cluster {
        self.clusters.get(backend).cloned().unwrap_or_default()
    }

    /// How the process is started.
    pub(super) fn options(&self) -> Options {
        Options {
            workers: self.workers,
            drain_time: self.drain_time,
            environment: self.environment.clone(),
            ..Options::default()
        }
    }

    /// Envoy's configuration, with one listener; `folder` is for the files that Envoy watches.
    pub(super) fn bootstrap(
        &self,
        configuration: &Value,
        backends: &[(String, u16)],
        folder: &Path,
    ) -> Bootstrap {
        let mut whole = Bootstrap::local();
        whole.json["node"] = json!({"id": "test", "cluster": "test"});
        if let Some(port) = self.name_server {
            whole.json["typed_dns_resolver_config"] = name_server(port);
        }
        whole.listen(free_port(), free_port());
        whole.set_backends(backends.iter().map(|(name, port)| (name.as_str(), *port)));
        self.change_listener(whole.listener());
        self.change_manager(whole.manager());
        self.change_routes(whole.routes());
        self.change_clusters(whole.clusters(), folder);
        whole.configure(configuration);
        let variables: Vec<&String> = self.environment.iter().map(|(name, _)| name).collect();
        whole.run_module(module_path());
        whole.each_plugin(|plugin| {
            plugin["reload_config"]["backoff"]["base_interval"] =
                json!(seconds(self.reload_interval));
            plugin["vm_config"]["environment_variables"] = json!({"host_env_keys": variables});
            if self.as_struct {
                let text = plugin["configuration"]["value"].as_str().unwrap();
                let value: Value = serde_json::from_str(text).unwrap();
                let r#type = "type.googleapis.com/google.protobuf.Struct";
                plugin["configuration"] = json!({"@type": r#type, "value": value});
            }
        });
        whole
    }

    fn change_listener(&self, listener: &mut Value) {
        if self.workers > 1 {
            listener["connection_balance_config"] = json!({"exact_balance": {}});
        }
    }

    fn change_manager(&self, manager: &mut Value) {
        let keys = manager.as_object_mut().unwrap();
        for guard in ["early_header_mutation_extensions", "normalize_path", "use_remote_address"] {
            keys.remove(guard).unwrap();
        }
        // Envoy leaves its own headers to a client from such an address: the filter must not.
        manager["internal_address_config"] =
            json!({"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]});
        manager["access_log"] = self.access_log();
        let filters = manager["http_filters"].as_array_mut().unwrap();
        filters.splice(0..0, self.filters_before.iter().cloned());
    }

    /// Beside Envoy's own log, a line of JSON for each request.
    fn access_log(&self) -> Value {
        if self.access_log.is_empty() {
            return json!([]);
        }
        let fields: Map<String, Value> =
            self.access_log.iter().map(|(name, format)| ((*name).into(), json!(format))).collect();
        json!([{"name": "stderr", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
            "log_format": {"json_format": fields}
        }}])
    }

    /// One route for everything, so that its limits are those that a test sets.
    fn change_routes(&self, routes: &mut Vec<Value>) {
        routes.remove(0);
        let route = &mut routes[0];
        for (name, _) in self.clusters.iter().filter(|(_, cluster)| !cluster.is_in_matcher) {
            matcher(route).remove(name).unwrap();
        }
        route["request_body_buffer_limit"] = json!(self.body_limit_bytes);
        let retries = &mut route["route"]["retry_policy"];
        retries["per_try_timeout"] = json!(seconds(self.per_try_timeout));
        retries["per_try_idle_timeout"] = json!(seconds(self.per_try_idle_timeout));
    }

    fn change_clusters(&self, clusters: &mut Vec<Value>, folder: &Path) {
        clusters.retain(|cluster| match cluster["name"].as_str().unwrap() {
            CATCH_ALL => self.has_catch_all,
            name => self.cluster_of(name).exists,
        });
        for cluster in clusters {
            let settings = self.clusters.get(cluster["name"].as_str().unwrap());
            if let Some(settings) = settings {
                settings.apply(cluster, folder);
            }
        }
    }

    /// Adds the further listeners, and returns their ports.
    pub(super) fn add_listeners(&self, whole: &mut Bootstrap) -> Vec<u16> {
        let pattern = whole.listener().clone();
        let listeners = whole.json["static_resources"]["listeners"].as_array_mut().unwrap();
        let further = self.more_listeners.iter().enumerate().map(|(at, configuration)| {
            let (port, mut listener) = (free_port(), pattern.clone());
            listener["name"] = json!(format!("gateway-{}", at + 2));
            listener["address"] = address(port);
            configure(&mut listener, configuration);
            listeners.push(listener);
            port
        });
        further.collect()
    }
}

/// Makes Envoy ask the name server on this port, and no other.
pub(super) fn name_server(port: u16) -> Value {
    json!({
        "name": "envoy.network.dns_resolver.cares",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [address(port)]
        }
    })
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}
