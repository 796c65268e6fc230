//! Instances that outlive a call.

use super::*;
use crate::host::{engine::SPARE, lasting::Lasting, workers::Work};

const STORE: &[u8] = include_bytes!("../../../../../functions/builds/cached-store.wasm");

async fn done<T>(work: Option<Work<T>>) -> T {
    tokio::time::timeout(PATIENCE, work.unwrap().done()).await.expect("it ends").unwrap()
}

async fn begun(yard: &Yard, guest: &Guest, limits: Limits) -> Result<Lasting, CallError> {
    let (host, guest) = (yard.host.clone(), guest.clone());
    done(yard.host.run(async move { host.begin_store(&guest, Reach::nothing(), limits).await })).await
}

#[tokio::test]
async fn state_store_lives_on_between_operations_and_each_has_its_own_time() {
    let yard = Yard::new();
    let store = yard.install(STORE).unwrap();
    assert_eq!(store.kind(), Kind::StateStore);
    let mut lasting = begun(&yard, &store, SHORT).await.unwrap();
    // Longer than the time that it was begun with: the second operation begins its own.
    let lasts = async move {
        let first = lasting
            .operation(SHORT, async |_, _| wasmtime::Result::Ok(std::future::pending::<()>().await))
            .await;
        let second = lasting.operation(SHORT, async |store, _| Ok(store.data().limiter.used_bytes())).await;
        (first, second)
    };
    let (first, second) = done(yard.host.run(lasts)).await;
    assert!(matches!(first, Err(CallError::Time(100))), "{first:?}");
    assert!(second.unwrap() > 0);
}

#[tokio::test]
async fn state_store_opens_a_bucket_and_answers() {
    let yard = Yard::new();
    let mut lasting = begun(&yard, &yard.install(STORE).unwrap(), LIMITS).await.unwrap();
    let asks = async move {
        let opened = lasting.operation(LIMITS, async |store, exports| {
            exports
                .wasi_keyvalue0_2_0_draft2_store()
                .call_open(store, "default")
                .await
                .map(|opened| opened.is_ok())
        });
        opened.await
    };
    done(yard.host.run(asks)).await.unwrap();
}

#[tokio::test]
async fn only_so_many_instances_last_and_one_that_ends_makes_room() {
    let yard = Yard::new();
    let store = yard.install(STORE).unwrap();
    let mut all = Vec::new();
    for _ in 0..SPARE {
        all.push(begun(&yard, &store, LIMITS).await.unwrap());
    }
    let refused = begun(&yard, &store, LIMITS).await.map(drop);
    assert!(matches!(refused, Err(CallError::Busy)), "{refused:?}");
    // Calls have places of their own.
    yard.lives(&yard.install(UNRULY).unwrap()).await;
    all.pop();
    begun(&yard, &store, LIMITS).await.unwrap();
}

#[tokio::test]
async fn what_is_no_state_store_does_not_last() {
    let yard = Yard::new();
    let unruly = yard.install(UNRULY).unwrap();
    let said = begun(&yard, &unruly, LIMITS).await.map(drop).unwrap_err().to_string();
    assert!(said.contains("no state store"), "{said}");
    let called = yard.call(&yard.install(STORE).unwrap(), "", LIMITS).await;
    assert!(matches!(called, Err(CallError::Refused(_))), "{called:?}");
}
