use super::*;

fn members(priorities: &[u8]) -> Vec<Member> {
    priorities.iter().map(|priority| Member { priority: *priority, weight: 1 }).collect()
}

fn after(tried: &[usize], status: u16) -> Trip {
    Trip { tried: tried.to_vec(), status, ..Trip::default() }
}

#[test]
fn api_management_leaves_a_group_only_when_all_its_breakers_are_open() {
    let mut random = Random::new(1);
    let mut apim = ApiManagement::new(members(&[1, 1, 2]));
    apim.note(0, 429, Some(3_000), 1_000);
    assert_eq!(apim.next(&after(&[0], 429), 1_000, &mut random), Move::Send(1));
    apim.note(1, 500, None, 1_000);
    assert_eq!(apim.next(&after(&[0, 1], 500), 1_000, &mut random), Move::Send(2));
    assert_eq!(apim.next(&after(&[], 0), 4_000, &mut random), Move::Send(0));
    assert_eq!(apim.next(&after(&[0, 1, 2], 500), 1_000, &mut random), Move::Fail(500));
    apim.note(2, 0, None, 1_000);
    assert_eq!(apim.next(&after(&[], 0), 1_000, &mut random), Move::Fail(503));
}

#[test]
fn litellm_cools_down_at_once_on_a_429_and_on_other_failures_when_most_calls_fail() {
    let mut random = Random::new(1);
    let mut router = LiteLlm::new(members(&[1, 2]));
    router.note(0, 429, Some(1_000), 500);
    assert_eq!(router.next(&after(&[0], 429), 500, &mut random), Move::Send(1));
    assert_eq!(router.next(&after(&[], 0), 1_500, &mut random), Move::Send(0));
    router.note(1, 200, None, 2_000);
    router.note(1, 500, None, 2_000);
    router.note(0, 429, None, 2_000);
    assert_eq!(router.next(&after(&[], 0), 2_000, &mut random), Move::Send(1), "half is not most");
    router.note(1, 500, None, 2_000);
    assert_eq!(router.next(&after(&[], 0), 2_000, &mut random), Move::Fail(429));
    assert_eq!(router.next(&after(&[0, 1, 0], 500), 9_000, &mut random), Move::Fail(500));
}

#[test]
fn the_sdk_waits_for_the_named_time_and_gives_up_after_two_retries() {
    let mut random = Random::new(1);
    let mut client = OneBackend(0);
    let told = Trip { retry_after_ms: Some(7_000), ..after(&[0], 429) };
    assert_eq!(client.next(&told, 100, &mut random), Move::Wait(7_100));
    let Move::Wait(until) = client.next(&after(&[0, 0], 500), 0, &mut random) else { panic!() };
    assert!((750..=1_000).contains(&until), "{until}");
    assert_eq!(client.next(&after(&[0, 0, 0], 500), 0, &mut random), Move::Fail(500));
    assert_eq!(client.next(&after(&[0], 400), 0, &mut random), Move::Fail(400));
}

#[test]
fn azure_spills_over_what_it_documents_and_nothing_else() {
    let mut random = Random::new(1);
    let mut azure = AzureAlone::new(0, 1);
    for (status, next) in [(429, Move::Send(1)), (503, Move::Send(1)), (0, Move::Fail(502))] {
        assert_eq!(azure.next(&after(&[0], status), 0, &mut random), next);
    }
    assert_eq!(azure.next(&after(&[0, 1], 429), 0, &mut random), Move::Fail(429));
}

#[test]
fn weights_divide_what_one_priority_gets() {
    let mut random = Random::new(2);
    let members = [Member { priority: 1, weight: 3 }, Member { priority: 1, weight: 1 }];
    let first = (0..4_000).filter(|_| by_weight(&members, &[0, 1], &mut random) == Some(0));
    let first = first.count();
    assert!((2_850..3_150).contains(&first), "{first}");
}
