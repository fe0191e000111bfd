//! What the policy must know about a pool: its members, their tiers, and the settings.
//!
//! The configuration builds these values and checks their ranges, so the policy can rely on them.

use super::time::Millis;

/// The largest number of backends in a pool: one bit each in a [`BackendSet`].
pub const MAX_BACKENDS: usize = 64;

/// The largest number of circuit breaker rules of a pool.
pub const MAX_RULES: usize = 4;

/// A backend's position in its pool's configuration; less than [`MAX_BACKENDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendIndex(u8);

impl BackendIndex {
    /// The backend at `position`; `None` beyond [`MAX_BACKENDS`].
    pub fn new(position: usize) -> Option<Self> {
        if position < MAX_BACKENDS { u8::try_from(position).ok().map(Self) } else { None }
    }

    /// The position in the pool's configuration.
    pub fn position(self) -> usize {
        usize::from(self.0)
    }
}

/// A set of backends of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendSet(u64);

impl BackendSet {
    /// No backend.
    pub const EMPTY: Self = Self(0);

    /// The set with `backend` added.
    #[must_use]
    pub fn with(self, backend: BackendIndex) -> Self {
        Self(self.0 | (1 << (backend.0 & 63)))
    }

    /// The set without `backend`.
    #[must_use]
    pub fn without(self, backend: BackendIndex) -> Self {
        Self(self.0 & !(1 << (backend.0 & 63)))
    }

    /// The set with all of `other` added.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `backend` is in it.
    pub fn contains(self, backend: BackendIndex) -> bool {
        self.0 & (1 << (backend.0 & 63)) != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many.
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// The members by ascending position.
    pub fn iter(self) -> impl Iterator<Item = BackendIndex> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let position = rest.trailing_zeros();
            rest &= rest.wrapping_sub(1);
            BackendIndex::new(usize::try_from(position).ok()?)
        })
    }
}

/// A set of operations, one bit each. The caller defines the meaning of a bit. The default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationSet(pub u32);

impl OperationSet {
    /// No operation.
    pub const NONE: Self = Self(0);

    /// Every operation.
    pub const ALL: Self = Self(u32::MAX);

    /// Whether it contains all of `other`.
    pub fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One backend, as the policy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Identifies the backend in shared records: a hash of its name, the same in all configurations.
    pub key: u64,
    /// The tier; a lower number is tried first. 0 to 100.
    pub priority: u8,
    /// The share within the tier, 0 to 100; 0 serves only when nothing else in the tier can.
    pub weight: u8,
    /// The backends with the same number share a throttle gate; unique over all pools.
    pub quota_group: Option<u16>,
    /// The operations that it can serve.
    pub operations: OperationSet,
    /// The longest prompt that it takes, in estimated tokens.
    pub max_prompt_tokens: Option<u64>,
}

/// The backends of a pool that share a priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Their priority.
    pub priority: u8,
    /// The backends.
    pub members: BackendSet,
}

/// Everything that decides how a pool treats its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPolicy {
    /// The backends, 1 to [`MAX_BACKENDS`].
    pub members: Vec<Member>,
    /// The tiers by ascending priority; every member is in exactly one.
    pub tiers: Vec<Tier>,
    /// The throttle gate's settings.
    pub throttle: ThrottleSettings,
    /// The circuit breaker's settings.
    pub breaker: BreakerSettings,
    /// The failover settings.
    pub failover: FailoverSettings,
}

impl PoolPolicy {
    /// Groups `members` into tiers.
    pub fn new(
        members: Vec<Member>,
        throttle: ThrottleSettings,
        breaker: BreakerSettings,
        failover: FailoverSettings,
    ) -> Self {
        let mut tiers: Vec<Tier> = Vec::new();
        for (position, member) in members.iter().enumerate() {
            let Some(backend) = BackendIndex::new(position) else { continue };
            let later = tiers.partition_point(|tier| tier.priority < member.priority);
            match tiers.get_mut(later).filter(|tier| tier.priority == member.priority) {
                Some(tier) => tier.members = tier.members.with(backend),
                None => {
                    let members = BackendSet::EMPTY.with(backend);
                    tiers.insert(later, Tier { priority: member.priority, members });
                }
            }
        }
        Self { members, tiers, throttle, breaker, failover }
    }

    /// The member at `backend`.
    pub fn member(&self, backend: BackendIndex) -> Option<&Member> {
        self.members.get(backend.position())
    }
}

/// How long a 429 closes the throttle gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrottleSettings {
    /// The delay when the backend names none. Default 10 s.
    pub default_retry_after: Millis,
    /// The longest time for which one 429 closes a gate. Default 60 s.
    pub max_retry_after: Millis,
}

/// When the circuit breaker opens and how it closes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Each can open the breaker on its own; at most [`MAX_RULES`]. Without any, the breaker never opens by rule.
    pub rules: Vec<Rule>,
    /// The longest open time, also with doubling and `retry-after`. Default 5 min. If the kind of fault decides, it
    /// may define a shorter one.
    pub max_trip_duration: Millis,
    /// How long the half-open probe may take before its lease expires. Default 30 s.
    pub probe_timeout: Millis,
    /// The longest duration of the ramp after closing: 10, 25, 50 %, each for a third of it, or shorter after
    /// successes. Default 10 s.
    pub ramp_duration: Millis,
}

/// One condition under which the circuit breaker opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How many faults open the breaker.
    pub threshold: Threshold,
    /// The window in which they are counted. 1 s to 1 h.
    pub interval: Millis,
    /// The statuses that are faults.
    pub statuses: StatusSet,
    /// The other events that are faults.
    pub reasons: Reasons,
    /// How long the breaker stays open at first; `None`: the kind of fault decides.
    pub trip_duration: Option<Millis>,
    /// Whether a `retry-after` of the response that opens it replaces `trip_duration`.
    pub accept_retry_after: bool,
}

/// How many faults open the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Threshold {
    /// This many faults in the interval. At least 1.
    Count(u32),
    /// This many faults without a success between them, over any time. At least 1.
    Consecutive(u32),
    /// This share of the attempts in the interval, from `min_requests` on.
    Percentage {
        /// 1 to 100.
        percent: u8,
        /// At least 1.
        min_requests: u32,
    },
}

/// The faults other than a status that a rule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reasons {
    /// The connection failed.
    pub connect: bool,
    /// The first byte did not come in time.
    pub timeout: bool,
    /// The connection broke, before or after the first byte.
    pub reset: bool,
    /// The event stream contained an error.
    pub stream_error: bool,
    /// The first byte took longer than this, whatever the status.
    pub slow: Option<Millis>,
}

/// A set of HTTP statuses from 100 to 599.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StatusSet {
    ranges: Vec<(u16, u16)>,
}

impl StatusSet {
    /// The union of the inclusive ranges.
    pub fn new(ranges: Vec<(u16, u16)>) -> Self {
        Self { ranges }
    }

    /// Whether `status` is in it.
    pub fn contains(&self, status: u16) -> bool {
        self.ranges.iter().any(|&(low, high)| (low..=high).contains(&status))
    }
}

/// How far a request may go to find a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailoverSettings {
    /// The most attempts of one request, including the first. Default: the pool's size, at most 6.
    pub max_attempts: u8,
    /// Share of the pool's recent requests that may fail over. 0 to 100. Default 20.
    pub retry_percent: u8,
    /// Failovers per second that are always allowed. Default 10.
    pub min_retries_per_second: u32,
    /// How long a request may wait for the soonest backend. 0 to 60 s. Default 0.
    pub max_wait: Millis,
    /// How long an attempt may take to its first byte; `None`: as long as the route allows.
    pub first_byte_timeout: Option<Millis>,
    /// How many bytes of a stream's head are held to find an error. Default 64 KiB.
    pub hold_bytes: u32,
    /// How long the head is held after the headers came, whether or not any byte of the body came. Default 500 ms.
    pub hold_time: Millis,
}
