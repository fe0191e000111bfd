//! Measures gateways against each other: in turns, several starts and rounds, medians.
//!
//! A machine changes all the time, so what is compared is measured one right after the other, and a
//! ratio is the median of the ratios within each round. Where a process happens to lie in memory stays
//! for its life and makes up to a sixth, far more than what two rounds of the same process differ by. So what is
//! repeated is the start, with one round each. CPU time is the kernel's
//! own account of the gateway's process, which neither the load nor the upstream is part of.

use crate::cpu::Machine;
use crate::gateway::{Gateway, Kind, Place, Program};
use crate::load::{self, Flavour, Question, Seen, Stop};
use std::io;
use std::time::Duration;

/// How often streams are measured until their events arrive one at a time. On a quiet machine once is enough.
const STREAM_TRIES: u32 = 10;

/// One comparison: the first gateway is what the others are compared with.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) work: Work,
    pub(crate) connections: usize,
    pub(crate) kinds: &'static [Kind],
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// These requests in turn. The cost is that of one of them.
    Requests(&'static [Question]),
    /// Streams of two lengths. The cost is that of an event: the difference, divided.
    Events { few: u32, many: u32 },
}

/// How long it is measured.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// How many times the gateways are started.
    pub(crate) starts: usize,
    /// How many rounds there are after each start.
    pub(crate) rounds: usize,
    pub(crate) round: Duration,
    /// Whether to measure although other programs disturb the figures.
    pub(crate) loaded: bool,
}

/// What a gateway took.
pub(crate) struct Figures {
    pub(crate) case: &'static str,
    pub(crate) kind: Kind,
    /// Whether the cost is that of an event and not of a request.
    pub(crate) per_event: bool,
    pub(crate) cpu_us: f64,
    /// The cost in that of the first gateway of its case.
    pub(crate) ratio: f64,
    /// The cost in that of bare Envoy with retries, where it was measured.
    pub(crate) ratio_to_retries: Option<f64>,
    pub(crate) answers_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// How many CPUs the gateway had, on average.
    pub(crate) cpus: f64,
    /// The part of the machine's CPUs that nobody used.
    pub(crate) idle: f64,
}

/// What one round showed of one gateway.
struct Round {
    cpu_us: f64,
    answers_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    cpus: f64,
    idle: f64,
}

/// The requests of a gateway in one measurement, and their cost.
struct Spell {
    seen: Seen,
    cpu: Duration,
    idle: f64,
}

/// Measures the gateways of a case.
///
/// # Errors
/// When a gateway does not start, or answers anything but 200.
pub(crate) async fn case(case: &Case, effort: Effort, place: &Place) -> io::Result<Vec<Figures>> {
    let mut all: Vec<Vec<Round>> = case.kinds.iter().map(|_| Vec::new()).collect();
    for _ in 0..effort.starts {
        let mut gateways = Vec::new();
        for kind in case.kinds {
            let gateway = Gateway::start(*kind, place).await?;
            round(case, effort, effort.round / 2, &gateway).await?; // so that it is warm
            gateways.push(gateway);
        }
        for _ in 0..effort.rounds {
            for (gateway, rounds) in gateways.iter().zip(&mut all) {
                rounds.push(round(case, effort, effort.round, gateway).await?);
            }
        }
    }
    let Some(base) = all.first() else { return Ok(Vec::new()) };
    let mut kinds = case.kinds.iter();
    let with_retries = kinds.position(|kind| kind.program == Program::BareWithRetries);
    let with_retries = with_retries.map(|at| all[at].as_slice());
    let measured = case.kinds.iter().zip(&all);
    Ok(measured.map(|(kind, rounds)| figures(case, *kind, rounds, base, with_retries)).collect())
}

fn figures(
    case: &Case,
    kind: Kind,
    rounds: &[Round],
    base: &[Round],
    with_retries: Option<&[Round]>,
) -> Figures {
    let of = |what: fn(&Round) -> f64| median(rounds.iter().map(what));
    let ratio_to = |base: &[Round]| {
        median(rounds.iter().zip(base).map(|(round, base)| round.cpu_us / base.cpu_us))
    };
    Figures {
        case: case.name,
        kind,
        per_event: matches!(case.work, Work::Events { .. }),
        cpu_us: of(|round| round.cpu_us),
        ratio: ratio_to(base),
        ratio_to_retries: with_retries.map(ratio_to),
        answers_per_second: of(|round| round.answers_per_second),
        p50_us: of(|round| round.p50_us),
        p99_us: of(|round| round.p99_us),
        cpus: of(|round| round.cpus),
        idle: of(|round| round.idle),
    }
}

async fn round(
    case: &Case,
    effort: Effort,
    length: Duration,
    gateway: &Gateway,
) -> io::Result<Round> {
    match case.work {
        Work::Requests(questions) => {
            let spell = spend(case, length, questions, gateway).await?;
            Ok(Round::of(spell.per_response_us(), spell))
        }
        Work::Events { few, many } => {
            let short = spend(case, length / 2, &[streams_of(few)], gateway).await?;
            // A peer may join events by itself, which makes it look better than it is.
            let tries = if gateway.kind.program.is_peer() { 1 } else { STREAM_TRIES };
            let (long, single) = spend_on_events(case, length, many, gateway, tries).await?;
            if !single && tries > 1 && !effort.loaded {
                let name = gateway.kind.name;
                let trouble = format!("{name}: the events never arrived one at a time");
                return Err(io::Error::other(trouble));
            }
            let difference = long.per_response_us() - short.per_response_us();
            Ok(Round::of(difference / f64::from(many - few), long))
        }
    }
}

fn streams_of(events: u32) -> Question {
    Question { flavour: Flavour::OpenAi, body_bytes: 1024, events: Some(events) }
}

/// Streams, and whether their events arrived one at a time. Other programs can delay some until they arrive together,
/// which is less work for the gateway; then the measurement is repeated.
async fn spend_on_events(
    case: &Case,
    length: Duration,
    events: u32,
    gateway: &Gateway,
    tries: u32,
) -> io::Result<(Spell, bool)> {
    let mut tried = 1;
    loop {
        let spell = spend(case, length, &[streams_of(events)], gateway).await?;
        let single = arrived_singly(&spell.seen, events);
        if single || tried >= tries {
            return Ok((spell, single));
        }
        tried += 1;
    }
}

fn arrived_singly(seen: &Seen, events: u32) -> bool {
    seen.reads >= seen.answers * u64::from(events) / 10 * 9
}

async fn spend(
    case: &Case,
    length: Duration,
    questions: &[Question],
    gateway: &Gateway,
) -> io::Result<Spell> {
    let (before, machine_before) = (gateway.cpu_time()?, Machine::now()?);
    let seen = load::ask(gateway, questions, case.connections, Stop::After(length)).await?;
    let cpu = gateway.cpu_time()?.saturating_sub(before);
    Ok(Spell { seen, cpu, idle: Machine::now()?.idle_since(&machine_before) })
}

impl Spell {
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are small")]
    fn per_response_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.seen.answers.max(1) as f64
    }
}

impl Round {
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are small")]
    fn of(cpu_us: f64, spell: Spell) -> Self {
        let Spell { mut seen, cpu, idle } = spell;
        seen.latencies.sort_unstable();
        let percentile = |percent: usize| {
            let at = (seen.latencies.len().saturating_sub(1)) * percent / 100;
            seen.latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
        };
        Self {
            cpu_us,
            answers_per_second: seen.answers as f64 / seen.elapsed.as_secs_f64(),
            p50_us: percentile(50),
            p99_us: percentile(99),
            cpus: cpu.as_secs_f64() / seen.elapsed.as_secs_f64(),
            idle,
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        Some(high) if values.len().is_multiple_of(2) => (values[middle - 1] + high) / 2.0,
        Some(middle) => *middle,
        None => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_ten_events_nine_must_arrive_singly() {
        let seen = |reads| Seen { answers: 2, reads, ..Seen::default() };
        assert!(arrived_singly(&seen(180), 100));
        assert!(!arrived_singly(&seen(179), 100));
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert!((median([3.0, 1.0, 2.0].into_iter()) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0].into_iter()) - 2.5).abs() < 1e-9);
    }
}
