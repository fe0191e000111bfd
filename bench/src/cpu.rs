//! Where CPU time went, by the kernel's own account.

use std::fs;
use std::io;
use std::time::Duration;

/// The time that all threads of a process spent on CPUs.
///
/// # Errors
/// When this is not Linux.
pub(crate) fn of_process(process: u32) -> io::Result<Duration> {
    let mut total_ns = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let spent = fs::read_to_string(task?.path().join("schedstat"))?;
        let spent = spent.split(' ').next().and_then(|spent| spent.parse::<u64>().ok());
        total_ns += spent.ok_or(io::ErrorKind::InvalidData)?;
    }
    Ok(Duration::from_nanos(total_ns))
}
