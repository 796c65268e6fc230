//! What a call may take, where no guest is needed for it. Guests that reach beyond their grants are in `tests/it`.

use super::*;

#[test]
fn a_call_takes_what_it_may_and_the_next_one_begins_anew() {
    let reach = Reach::nothing();
    let call = reach.for_call();
    let requests = std::iter::repeat_with(|| take(&call.left.requests)).take_while(Option::is_some).count();
    assert_eq!(requests, outgoing::MOST as usize);
    assert_eq!(take(&call.clone().left.requests), None);
    assert_eq!(take(&reach.for_call().left.requests), Some(outgoing::MOST));
}

#[test]
fn an_instance_that_lives_on_is_given_anew_what_a_request_may_take_but_no_room_for_tensors() {
    let reach = Reach::nothing().for_call();
    // As its hooks and streams have it.
    let hooks = reach.clone();
    for left in [&hooks.left.lines, &hooks.left.events, &hooks.left.requests] {
        while take(left).is_some() {}
    }
    hooks.left.tensors.store(7, Ordering::Relaxed);
    reach.renew();
    assert_eq!(take(&hooks.left.lines), Some(logs::MOST));
    assert_eq!(take(&hooks.left.events), Some(events::MOST));
    assert_eq!(take(&hooks.left.requests), Some(outgoing::MOST));
    assert_eq!(hooks.left.tensors.load(Ordering::Relaxed), 7);
}

#[test]
fn the_buckets_of_the_module_itself_are_granted_to_nobody() {
    for bucket in crate::dapr_wasm::BUCKETS {
        let grants = Grants { state: Some(bucket.to_owned()), ..Grants::default() };
        assert!(grants.problems().iter().any(|(field, _)| *field == "state"), "{bucket}");
    }
    let grants = Grants { state: Some("shop".to_owned()), ..Grants::default() };
    assert_eq!(grants.problems(), []);
}
