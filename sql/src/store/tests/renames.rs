//! Renames, whole and half.

use super::hooked::{Hook, Hooked};
use super::*;

suite!(
    a_renamed_model_keeps_its_versions,
    a_rename_needs_a_model_and_a_free_name,
    a_rename_that_died_halfway_did_not_happen,
    a_rename_that_died_halfway_is_void_once_its_source_moves_on,
    a_rename_goes_on_top_of_a_replace,
    of_renames_to_one_name_one_wins,
    a_rename_is_never_seen_by_halves,
    the_folders_of_a_renamed_model_are_vacuumed_with_it,
);

async fn a_renamed_model_keeps_its_versions(place: Place) {
    let store = place.open();
    for content in ["one", "two"] {
        replace(&store, "old", content).await.unwrap();
    }
    store.activate(&name("old"), 1).await.unwrap();
    store.rename(&name("old"), &ModelName { schema: "s".into(), name: "new".into() }).await.unwrap();
    store.rename(&ModelName { schema: "s".into(), name: "new".into() }, &name("newer")).await.unwrap();
    for store in [&store, &place.open()] {
        assert_eq!(models(store).await, ["newer"]);
        assert_eq!(content(store, "newer").await.unwrap(), "one");
        let snapshot = store.snapshot().await.unwrap();
        let two = snapshot.resolve(&name("newer"), Some(2)).unwrap();
        assert_eq!(two.model, name("newer"));
        assert_eq!(store.read(two).await.unwrap(), files("two"));
    }
    assert_eq!(replace(&store, "newer", "three").await.unwrap(), 3);
    assert_eq!(create(&store, "old", "again").await.unwrap(), 3);
    assert_eq!(content(&place.open(), "newer").await.unwrap(), "three");
    assert_eq!(content(&place.open(), "old").await.unwrap(), "again");
}

async fn a_rename_needs_a_model_and_a_free_name(place: Place) {
    let store = place.open();
    create(&store, "one", "1").await.unwrap();
    create(&store, "two", "2").await.unwrap();
    assert_says(store.rename(&name("one"), &name("two")).await, "model 'two' already exists");
    assert_says(store.rename(&name("one"), &name("one")).await, "model 'one' already exists");
    assert_says(store.rename(&name("ona"), &name("x")).await, "model 'ona' not found; did you mean 'one'?");
    store.drop_model(&name("two"), false).await.unwrap();
    store.rename(&name("one"), &name("two")).await.unwrap();
    assert_eq!(content(&store, "two").await.unwrap(), "1");
}

/// A rename of `old` to `new` whose writer died between the halves.
async fn half(place: &Place) {
    create(&place.open(), "old", "one").await.unwrap();
    let dying = Hooked::store(place, [Hook::Nothing, Hook::Crash]);
    assert_says(dying.rename(&name("old"), &name("new")).await, "killed");
}

async fn a_rename_that_died_halfway_did_not_happen(place: Place) {
    half(&place).await;
    let store = place.open();
    assert_eq!(models(&store).await, ["old"]);
    assert_eq!(create(&store, "new", "two").await.unwrap(), 1);
    for store in [&store, &place.open()] {
        assert_eq!(models(store).await, ["new", "old"]);
        assert_eq!(content(store, "old").await.unwrap(), "one");
        assert_eq!(content(store, "new").await.unwrap(), "two");
    }
}

async fn a_rename_that_died_halfway_is_void_once_its_source_moves_on(place: Place) {
    half(&place).await;
    let store = place.open();
    assert_eq!(models(&store).await, ["old"]);
    replace(&place.open(), "old", "two").await.unwrap();
    assert_eq!(models(&store).await, ["old"]);
    store.rename(&name("old"), &name("new")).await.unwrap();
    assert_eq!(models(&place.open()).await, ["new"]);
    assert_eq!(content(&place.open(), "new").await.unwrap(), "two");
}

async fn a_rename_goes_on_top_of_a_replace(place: Place) {
    let other = place.open();
    create(&other, "old", "one").await.unwrap();
    let replaced = Hook::Before(Box::pin(async move {
        replace(&other, "old", "two").await.unwrap();
    }));
    let store = Hooked::store(&place, [Hook::Nothing, replaced]);
    store.rename(&name("old"), &name("new")).await.unwrap();
    for store in [&store, &place.open()] {
        assert_eq!(models(store).await, ["new"]);
        assert_eq!(content(store, "new").await.unwrap(), "two");
    }
}

async fn of_renames_to_one_name_one_wins(place: Place) {
    let mut renames = tokio::task::JoinSet::new();
    for i in 0..4 {
        let (store, model) = (place.open(), format!("m{i}"));
        create(&store, &model, &model).await.unwrap();
        renames.spawn(async move { store.rename(&name(&model), &name("target")).await.map(|()| model) });
    }
    let (won, lost): (Vec<_>, Vec<_>) = renames.join_all().await.into_iter().partition(Result::is_ok);
    // Each may have made the others void, but no model is lost, and none is there twice.
    assert!(won.len() <= 1);
    let store = place.open();
    assert_eq!(models(&store).await.len(), 4);
    if let Some(Ok(model)) = won.into_iter().next() {
        assert_eq!(content(&store, "target").await.unwrap(), model);
    }
    for result in lost {
        let error = message(result);
        assert!(["already exists", "keep changing"].iter().any(|part| error.contains(part)), "{error}");
    }
}

async fn a_rename_is_never_seen_by_halves(place: Place) {
    create(&place.open(), "a", "it").await.unwrap();
    let writer = place.open();
    let renames = tokio::spawn(async move {
        for i in 0..30 {
            let (from, to) = if i % 2 == 0 { ("a", "b") } else { ("b", "a") };
            writer.rename(&name(from), &name(to)).await.unwrap();
        }
    });
    let store = place.open();
    while !renames.is_finished() {
        let seen = models(&store).await;
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!(models(&place.open()).await.len(), 1);
    }
    renames.await.unwrap();
    assert_eq!(content(&store, "a").await.unwrap(), "it");
}

async fn the_folders_of_a_renamed_model_are_vacuumed_with_it(place: Place) {
    let store = place.open();
    for content in ["one", "two", "three"] {
        replace(&store, "old", content).await.unwrap();
    }
    store.rename(&name("old"), &name("new")).await.unwrap();
    assert_eq!(store.vacuum_after(None, Duration::ZERO).await.unwrap().folders_removed, 0);
    create(&store, "old", "again").await.unwrap();
    assert_eq!(store.vacuum_after(Some(2), Duration::ZERO).await.unwrap().folders_removed, 1);
    assert_eq!(content(&place.open(), "new").await.unwrap(), "three");
    store.drop_model(&name("new"), false).await.unwrap();
    assert_eq!(store.vacuum_after(None, Duration::ZERO).await.unwrap().folders_removed, 2);
    assert_eq!(content(&place.open(), "old").await.unwrap(), "again");
}
