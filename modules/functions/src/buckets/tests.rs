//! Buckets against what a map would do, and against their bounds.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;

const MIB: u64 = 1 << 20;

fn buckets(folder: &tempfile::TempDir, bound: u64) -> Buckets {
    Buckets::new(folder.path().join("state.redb"), bound, Health::new())
}

fn put(key: &str, value: &[u8], condition: Condition) -> Operation {
    Operation { key: key.to_owned(), condition, value: Some(value.to_vec()) }
}

fn remove(key: &str) -> Operation {
    Operation { key: key.to_owned(), condition: Condition::Any, value: None }
}

async fn value(bucket: &Bucket, key: &str) -> Option<Vec<u8>> {
    bucket.get(vec![key.to_owned()]).await.unwrap().pop().flatten().map(|entry| entry.value)
}

/// What a map does with the same request; None where a condition does not hold.
fn modelled(map: &BTreeMap<String, Vec<u8>>, operations: &[Operation]) -> Option<BTreeMap<String, Vec<u8>>> {
    let mut map = map.clone();
    for Operation { key, condition, value } in operations {
        if *condition == Condition::Absent && map.contains_key(key) {
            return None;
        }
        match value {
            Some(value) => drop(map.insert(key.clone(), value.clone())),
            None => drop(map.remove(key)),
        }
    }
    Some(map)
}

fn an_operation() -> impl Strategy<Value = Operation> {
    let condition = prop_oneof![3 => Just(Condition::Any), 1 => Just(Condition::Absent)];
    let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..64));
    ("[a-cä]{0,3}", condition, value).prop_map(|(key, condition, value)| Operation { key, condition, value })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_bucket_does_what_a_map_does_and_so_it_does_after_a_restart(
        requests in proptest::collection::vec((0..2_usize, proptest::collection::vec(an_operation(), 0..5)), 0..25),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut maps = [BTreeMap::new(), BTreeMap::new()];
        Runtime::new().unwrap().block_on(async {
            let buckets = buckets(&folder, MIB);
            for (place, operations) in requests {
                let bucket = buckets.bucket(["one", "other"][place]);
                let done = bucket.apply(operations.clone()).await;
                match modelled(&maps[place], &operations) {
                    Some(map) => {
                        assert_eq!(done.unwrap().len(), operations.len());
                        maps[place] = map;
                    }
                    None => assert!(matches!(done, Err(StateError::Conflict(_))), "{done:?}"),
                }
            }
            same(&buckets, &maps).await;
        });
        // The file is free as soon as the thread that writes has ended.
        Runtime::new().unwrap().block_on(async {
            let again = buckets(&folder, MIB);
            shunt_testkit::eventually(std::time::Duration::from_secs(30), || async {
                again.bucket("one").keys(String::new(), None).await.is_ok()
            })
            .await;
            same(&again, &maps).await;
        });
    }
}

/// They hold what the maps hold, in the same order, and have counted it rightly.
async fn same(buckets: &Buckets, maps: &[BTreeMap<String, Vec<u8>>; 2]) {
    for (name, map) in ["one", "other"].into_iter().zip(maps) {
        let bucket = buckets.bucket(name);
        let keys = bucket.keys(String::new(), None).await.unwrap();
        assert_eq!(keys, map.keys().cloned().collect::<Vec<_>>());
        for prefix in ["a", "ab", "ä", "z"] {
            let wanted: Vec<_> = map.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
            assert_eq!(bucket.keys(prefix.to_owned(), None).await.unwrap(), wanted);
        }
        let after = bucket.keys(String::new(), Some("b".to_owned())).await.unwrap();
        assert_eq!(after, map.keys().filter(|key| key.as_str() > "b").cloned().collect::<Vec<_>>());
        let values = bucket.get(keys).await.unwrap().into_iter().map(|entry| entry.unwrap().value);
        assert_eq!(values.collect::<Vec<_>>(), map.values().cloned().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_tag_is_for_one_value_and_is_never_given_twice() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = buckets(&folder, MIB).bucket("shop");
    let tag = |done: Vec<Done>| match done.as_slice() {
        [Done::Set(tag)] => tag.clone(),
        other => panic!("{other:?}"),
    };
    let first = tag(bucket.apply(vec![put("a", b"1", Condition::Absent)]).await.unwrap());
    let second = tag(bucket.apply(vec![put("a", b"2", Condition::Etag(first.clone()))]).await.unwrap());
    let late = bucket.apply(vec![put("a", b"3", Condition::Etag(first.clone()))]).await;
    assert_eq!(late, Err(StateError::Conflict("a".to_owned())));
    let removed = bucket.apply(vec![remove("a")]).await.unwrap();
    assert_eq!(removed, [Done::Deleted(true)]);
    let third = tag(bucket.apply(vec![put("a", b"1", Condition::Absent)]).await.unwrap());
    assert!(third != first && third != second, "{first} {second} {third}");
    // One condition that does not hold, and nothing of the request is done.
    let both = vec![put("b", b"1", Condition::Any), put("a", b"9", Condition::Etag(first))];
    assert!(matches!(bucket.apply(both).await, Err(StateError::Conflict(_))));
    assert_eq!((value(&bucket, "a").await, value(&bucket, "b").await), (Some(b"1".to_vec()), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_count_at_once_by_their_tags_lose_no_count() {
    let folder = tempfile::tempdir().unwrap();
    let buckets = buckets(&folder, MIB);
    let workers = (0..8).map(|_| {
        let bucket = buckets.bucket("shop");
        tokio::spawn(async move {
            for _ in 0..5 {
                loop {
                    let entry = bucket.get(vec!["n".to_owned()]).await.unwrap().pop().flatten();
                    let (count, condition) = entry.map_or((0, Condition::Absent), |entry| {
                        let count = String::from_utf8(entry.value).unwrap().parse::<u32>().unwrap();
                        (count, Condition::Etag(entry.etag))
                    });
                    let text = (count + 1).to_string();
                    match bucket.apply(vec![put("n", text.as_bytes(), condition)]).await {
                        Ok(_) => break,
                        Err(StateError::Conflict(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                let sum = Sum { delta: 1, range: (0, 1000) };
                bucket.add("sum".to_owned(), sum).await.unwrap();
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    let bucket = buckets.bucket("shop");
    assert_eq!(value(&bucket, "n").await.unwrap(), b"40");
    assert_eq!(value(&bucket, "sum").await.unwrap(), b"40");
}

#[tokio::test]
async fn a_bucket_has_its_bound_and_all_buckets_have_one_together() {
    let folder = tempfile::tempdir().unwrap();
    let buckets = buckets(&folder, 2000);
    let value = vec![b'x'; 1900];
    let fill = |name: &'static str| {
        let (bucket, value) = (buckets.bucket(name), value.clone());
        async move { bucket.apply(vec![put("a", &value, Condition::Any)]).await }
    };
    for name in ["1", "2", "3", "4"] {
        fill(name).await.unwrap();
        let more = buckets.bucket(name).apply(vec![put("b", b"", Condition::Any)]).await;
        assert!(matches!(more, Err(StateError::TooLarge { what: "the bucket", max: 2000, .. })), "{more:?}");
    }
    let beyond = fill("5").await;
    assert!(matches!(beyond, Err(StateError::TooLarge { what: "all state", max: 8000, .. })), "{beyond:?}");
    // What is there may be set anew, and removed, which makes room.
    fill("1").await.unwrap();
    buckets.bucket("2").apply(vec![remove("a")]).await.unwrap();
    fill("5").await.unwrap();
    // A smaller bound throws nothing away.
    buckets.set_bound(100);
    assert!(matches!(fill("2").await, Err(StateError::TooLarge { .. })));
    assert_eq!(buckets.bucket("1").keys(String::new(), None).await.unwrap(), ["a"]);
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_waits() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = buckets(&folder, 1 << 30).bucket("shop");
    let too_large = |done: Result<Vec<Done>, StateError>| {
        assert!(matches!(done, Err(StateError::TooLarge { .. })), "{done:?}");
    };
    let key = "k".repeat(LONGEST_KEY + 1);
    too_large(bucket.apply(vec![put(&key, b"", Condition::Any)]).await);
    too_large(bucket.apply(vec![put("a", &vec![0; LARGEST_VALUE + 1], Condition::Any)]).await);
    too_large(bucket.apply(vec![put("a", b"", Condition::Any); MOST + 1]).await);
    let most = vec![put("a", &vec![0; LARGEST_VALUE], Condition::Any); LARGEST_ANSWER / LARGEST_VALUE + 1];
    too_large(bucket.apply(most.clone()).await);
    bucket.apply(most.split_last().unwrap().1.to_vec()).await.unwrap();
    let sum = Sum { delta: 1, range: (0, 10) };
    assert!(matches!(bucket.add("a".to_owned(), sum).await, Err(StateError::Number(_))));
}

#[tokio::test]
async fn a_file_that_is_no_store_is_an_error_and_not_the_end() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("state.redb"), vec![7; 100_000]).unwrap();
    let health = Health::new();
    let bucket = Buckets::new(folder.path().join("state.redb"), MIB, health.clone()).bucket("shop");
    let written = bucket.apply(vec![put("a", b"1", Condition::Any)]).await;
    assert!(matches!(written, Err(StateError::Unavailable(_))), "{written:?}");
    assert!(health.failing().iter().any(|(part, _)| *part == "state"));
}
