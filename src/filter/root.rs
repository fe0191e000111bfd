//! One plugin of the VM: the gateway's, or the one of all attempt filters.

use crate::config::{Config, plugin_configuration};
use crate::filter::host::timers;
use crate::filter::host::{self, Buffer};
use crate::filter::pool::Pools;
use std::rc::Rc;

/// A plugin, and the root of its streams.
pub(crate) struct Root {
    id: u32,
    role: Role,
}

enum Role {
    Unconfigured,
    Gateway(Rc<Pools>),
    Attempt,
}

impl Root {
    pub(crate) fn new(id: u32) -> Self {
        Self { id, role: Role::Unconfigured }
    }

    /// Applies the configuration of `size` bytes that the host holds. Returns `false` when it is refused; the log has
    /// the reason.
    pub(crate) fn configure(&mut self, size: usize) -> bool {
        match read_configuration(size) {
            Ok(role) => {
                self.role = role;
                true
            }
            Err(problem) => {
                log::error!("configuration refused: {problem}");
                false
            }
        }
    }

    /// The gateway's pools; `None` in the attempt role.
    pub(crate) fn pools(&self) -> Option<Rc<Pools>> {
        match &self.role {
            Role::Gateway(pools) => Some(Rc::clone(pools)),
            Role::Attempt | Role::Unconfigured => None,
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        timers::forget(self.id);
    }
}

/// Reads the role and, for the gateway, the new pools. Requests in flight keep the old ones.
fn read_configuration(size: usize) -> Result<Role, String> {
    let bytes = host::buffer(Buffer::PluginConfiguration, 0, size)
        .map_err(|refused| format!("it cannot be read ({refused:?})"))?;
    let json = plugin_configuration::to_json(&bytes);
    if plugin_configuration::role(&json)? == plugin_configuration::Role::Attempt {
        return Ok(Role::Attempt);
    }
    let environment = |name: &str| std::env::var(name).ok();
    let config = Config::parse(&json, &environment).map_err(|errors| errors.to_string())?;
    Ok(Role::Gateway(Rc::new(Pools::new(config))))
}
