//! CPU time by the kernel's own account.

use std::fs;
use std::io;
use std::time::Duration;

/// What all CPUs of the machine did since it was started, in the kernel's ticks.
pub(crate) struct Machine {
    idle: u64,
    total: u64,
}

impl Machine {
    /// What they did until now.
    ///
    /// # Errors
    /// When this is not Linux.
    pub(crate) fn now() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        Self::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The first line: `cpu`, then user, nice, system, idle, waiting, both kinds of interrupts, stolen. What
    /// follows is part of user and nice.
    fn parse(text: &str) -> Option<Self> {
        let ticks = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
        let ticks: Vec<u64> = ticks.map(|ticks| ticks.parse().ok()).collect::<Option<_>>()?;
        Some(Self { idle: ticks.get(3)? + ticks.get(4)?, total: ticks.iter().sum() })
    }

    /// The part of the time since `earlier` in which they had nothing to do.
    #[expect(clippy::cast_precision_loss, reason = "ticks of a benchmark are few")]
    pub(crate) fn idle_since(&self, earlier: &Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total).max(1);
        self.idle.saturating_sub(earlier.idle) as f64 / total as f64
    }
}

/// A process, those that it started, those that these started, and so on.
///
/// # Errors
/// When the process is not there, or this is not Linux.
pub(crate) fn family(process: u32) -> io::Result<Vec<u32>> {
    let mut family = vec![process];
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end while they are listed.
        let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            family.extend(self::family(child).unwrap_or_default());
        }
    }
    Ok(family)
}

/// The time that all threads of a process spent on CPUs.
///
/// # Errors
/// When this is not Linux.
pub(crate) fn of_process(process: u32) -> io::Result<Duration> {
    let mut total_ns = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let Ok(spent) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue; // the thread ended while they were listed
        };
        let spent = spent.split(' ').next().and_then(|spent| spent.parse::<u64>().ok());
        total_ns += spent.ok_or(io::ErrorKind::InvalidData)?;
    }
    Ok(Duration::from_nanos(total_ns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::{Command, Stdio};

    #[test]
    fn what_a_process_started_belongs_to_its_family() {
        let shell = ["-c", "sleep 60 & echo; wait"];
        let mut parent = Command::new("sh").args(shell).stdout(Stdio::piped()).spawn().unwrap();
        // It writes when the other one is started.
        parent.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let family = family(parent.id()).unwrap();
        assert_eq!((family.len(), family[0]), (2, parent.id()));
        assert!(Command::new("kill").arg(family[1].to_string()).status().unwrap().success());
        parent.wait().unwrap();
    }

    #[test]
    fn a_machine_is_idle_while_it_has_nothing_to_do_or_waits() {
        let before = Machine::parse("cpu  100 0 50 800 10 0 5 0 90 0\ncpu0 1 2 3 4").unwrap();
        let after = Machine::parse("cpu  140 0 80 820 20 0 5 0 99 0\ncpu0 1 2 3 4").unwrap();
        assert!((after.idle_since(&before) - 0.3).abs() < 1e-9);
        assert!(Machine::parse("cpu  1 2").is_none());
    }
}
