//! The memory of a worker's VM after many requests. It never shrinks, so it must not grow with them.

use crate::cases::BUDGETS;
use crate::gateway::{Gateway, Place};
use crate::load::{self, Flavour, Question, Stop};
use std::fs;
use std::io;

/// What a VM may hold at most.
const LIMIT_BYTES: usize = 8 * MIB;
const MIB: usize = 1024 * 1024;

/// More address space than this, of which nothing may be touched, is what V8 reserves for one VM's memory.
const RESERVATION_MIN_BYTES: usize = 4096 * MIB;

const CONNECTIONS: usize = 32;

/// The length of a stream: enough events for some to be cut in two, few enough to be over soon.
const EVENTS: u32 = 10;

const SMALL: Question = Question { flavour: Flavour::OpenAi, body_bytes: 1024, events: None };

/// Sends this many requests of all sizes and reports the memory of each VM before and after.
///
/// # Errors
/// When a VM holds more than it may, or a request fails.
pub(crate) async fn run(requests: usize, place: &Place) -> io::Result<()> {
    let gateway = Gateway::start(BUDGETS, place).await?;
    // A worker has its VM at the latest when it has responded.
    load::ask(&gateway, &[SMALL], 1, Stop::AfterRequests(1)).await?;
    let before = of_machines(&gateway)?;
    let stop = Stop::AfterRequests(requests);
    let seen = load::ask(&gateway, &mixture(), CONNECTIONS, stop).await?;
    let after = of_machines(&gateway)?;
    println!(
        "{} answers in {:.0} s; the memory of each VM: {} at first, {} after them",
        seen.answers,
        seen.elapsed.as_secs_f64(),
        in_mebibytes(&before),
        in_mebibytes(&after)
    );
    if after.iter().any(|bytes| *bytes > LIMIT_BYTES) {
        return Err(io::Error::other(format!("more than {} MiB", LIMIT_BYTES / MIB)));
    }
    Ok(())
}

/// A hundred requests: mostly small ones, some of 100 KB, one of 1 MB, some streams.
fn mixture() -> Vec<Question> {
    (0..100)
        .map(|number| Question {
            flavour: Flavour::OpenAi,
            body_bytes: match number {
                49 => MIB,
                19 | 79 => 100 * 1024,
                _ => SMALL.body_bytes,
            },
            events: matches!(number, 9 | 69).then_some(EVENTS),
        })
        .collect()
}

/// The memory of the VM of each worker and of the main thread.
fn of_machines(gateway: &Gateway) -> io::Result<Vec<usize>> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", gateway.process_id()))?;
    let machines = machines(&maps).ok_or(io::ErrorKind::InvalidData)?;
    if machines.len() <= gateway.kind.workers {
        return Err(io::Error::other("the memory of the VMs is not where V8 had it"));
    }
    Ok(machines)
}

/// The memory of each VM in a process's maps. V8 reserves the address space of a whole 32-bit memory: what is in
/// use is the writable part in front of the rest of the reservation.
fn machines(maps: &str) -> Option<Vec<usize>> {
    let maps: Vec<(usize, &str)> = maps
        .lines()
        .map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let address = |hex| usize::from_str_radix(hex, 16).ok();
            Some((address(end)?.checked_sub(address(start)?)?, rest.get(..4)?))
        })
        .collect::<Option<_>>()?;
    let pairs = maps.windows(2).filter_map(|pair| match pair {
        [(bytes, "rw-p"), (rest, "---p")] if *rest > RESERVATION_MIN_BYTES => Some(*bytes),
        _ => None,
    });
    Some(pairs.collect())
}

#[expect(clippy::cast_precision_loss, reason = "memory is shown with one decimal")]
fn in_mebibytes(machines: &[usize]) -> String {
    let machines = machines.iter().map(|bytes| format!("{:.1}", *bytes as f64 / MIB as f64));
    format!("{} MiB", machines.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_what_is_writable_before_its_reservation() {
        let maps = "\
100000000000-100000200000 rw-p 00000000 00:00 0
100000200000-100300000000 ---p 00000000 00:00 0
100300000000-100300001000 rw-p 00000000 00:00 0 [heap]
100300001000-100300002000 ---p 00000000 00:00 0
100400000000-100400300000 rw-p 00000000 00:00 0
100400300000-100700000000 ---p 00000000 00:00 0";
        assert_eq!(machines(maps), Some(vec![2 * MIB, 3 * MIB]));
        assert_eq!(machines("what is this"), None);
    }

    #[test]
    fn the_mixture_has_streams_and_every_size() {
        let count = |test: fn(&Question) -> bool| mixture().iter().filter(|one| test(one)).count();
        assert_eq!(count(|one| one.body_bytes == 1024), 97);
        assert_eq!(count(|one| one.body_bytes == 100 * 1024), 2);
        assert_eq!(count(|one| one.body_bytes == MIB), 1);
        assert_eq!(count(|one| one.events.is_some()), 2);
    }
}
