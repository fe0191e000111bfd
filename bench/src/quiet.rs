//! Whether the machine is quiet. Another program takes CPU time, caches and clock speed from what is measured, so its
//! figures would tell nothing.

use crate::cpu::Machine;
use std::io;
use std::thread::sleep;
use std::time::Duration;

/// The part of all CPUs that others may use.
const OTHERS_MAX: f64 = 0.1;
/// How long the machine is watched at a time.
const WATCH: Duration = Duration::from_secs(1);
/// A program that just ended, such as a compiler, may need some time to stop.
const TRIES: u32 = 20;

/// Waits until the machine is quiet. Nothing may be measured meanwhile.
///
/// # Errors
/// When it stays busy.
pub(crate) fn wait() -> io::Result<()> {
    let mut others = 0.0;
    for _ in 0..TRIES {
        let before = Machine::now()?;
        sleep(WATCH);
        others = 1.0 - Machine::now()?.idle_since(&before);
        if others <= OTHERS_MAX {
            return Ok(());
        }
    }
    Err(io::Error::other(refusal(others)))
}

fn refusal(others: f64) -> String {
    format!(
        "other programs use {:.0} % of this machine's CPUs, and figures tell something below {:.0} % only. \
         End them and try again, or measure all the same with --loaded (make bench BENCH=--loaded)",
        others * 100.0,
        OTHERS_MAX * 100.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_how_busy_the_machine_is_and_what_to_do() {
        let refusal = refusal(0.43);
        assert!(refusal.contains("43 %") && refusal.contains("--loaded"), "{refusal}");
    }
}
