//! Passes the log lines of the crate `log` to Envoy's log.

use super::raw;
use log::{Level, LevelFilter, Log, Metadata, Record};

/// The host's number for a level. The host's highest level, which `log` lacks, is for a panic.
const INFO: u32 = 2;
const WARN: u32 = 3;
const ERROR: u32 = 4;
const CRITICAL: u32 = 5;

struct EnvoyLog;

impl Log for EnvoyLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    /// Lines of others stand beside ours in Envoy's log, so each of ours begins with our name.
    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Error => ERROR,
            Level::Warn => WARN,
            Level::Info | Level::Debug | Level::Trace => INFO,
        };
        raw::log(level, &format!("spillway: {}", record.args()));
    }

    fn flush(&self) {}
}

/// Sends log lines to the host from now on, and logs a panic before it ends the VM.
pub(crate) fn begin() {
    // Another VM of the process was first. This happens in native tests, and the logger is the same.
    let _ = log::set_logger(&EnvoyLog);
    log::set_max_level(LevelFilter::Info);
    std::panic::set_hook(Box::new(|panic| raw::log(CRITICAL, &panic.to_string())));
}
