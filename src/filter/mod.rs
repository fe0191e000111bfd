//! The only place that knows Envoy. It translates callbacks into questions to the core and the
//! core's answers into host calls; it decides nothing.
//!
//! Both roles are one module in one VM per worker. They meet in [`table`]: the requests in flight.
//! A worker is one thread, so the table needs no lock; what workers must agree on goes through
//! [`shared`].

mod answer;
mod attempt;
mod body;
mod budgets;
mod consumers;
mod exchange;
mod flow;
mod gateway;
mod held;
mod host;
mod meter;
mod metrics;
mod plan;
mod publish;
mod records;
mod routed;
mod sanitize;
mod selection;
mod shared;
mod table;
mod timers;
mod worker;

use crate::config::{Config, plugin_configuration};
use attempt::Attempt;
use gateway::Gateway;
use host::{Buffer, Level};
use plan::Plan;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{ContextType, LogLevel};
use std::rc::Rc;
use timers::StreamId;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Warn); // also installs the hook that logs a panic
    proxy_wasm::set_root_context(|id| Box::new(Root { id, role: Role::Unconfigured }));
}}

/// One plugin of the VM: the gateway's, or the one that all attempt filters share.
struct Root {
    id: u32,
    role: Role,
}

enum Role {
    Unconfigured,
    Gateway(Rc<Plan>),
    Attempt,
}

impl Context for Root {}

impl Drop for Root {
    fn drop(&mut self) {
        timers::forget(self.id);
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        match configure(size) {
            Ok(role) => {
                self.role = role;
                true
            }
            Err(problem) => {
                host::log(Level::Error, &format!("spillway: configuration refused: {problem}"));
                false
            }
        }
    }

    fn on_tick(&mut self) {
        timers::fire(self.id);
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        let stream = StreamId { context: id, root: self.id };
        match &self.role {
            Role::Gateway(plan) => Some(Box::new(Gateway::new(stream, Rc::clone(plan)))),
            Role::Attempt | Role::Unconfigured => Some(Box::new(Attempt::new(stream))),
        }
    }
}

/// The role and, for the gateway, a plan that replaces the one that runs; requests in flight keep
/// theirs.
fn configure(size: usize) -> Result<Role, String> {
    let bytes = host::buffer(Buffer::PluginConfiguration, 0, size)
        .map_err(|refused| format!("it cannot be read ({refused:?})"))?;
    let json = plugin_configuration::to_json(&bytes);
    if plugin_configuration::role(&json)? == plugin_configuration::Role::Attempt {
        return Ok(Role::Attempt);
    }
    let environment = |name: &str| std::env::var(name).ok();
    let config = Config::parse(&json, &environment).map_err(|errors| errors.to_string())?;
    Ok(Role::Gateway(Rc::new(Plan::new(config))))
}
