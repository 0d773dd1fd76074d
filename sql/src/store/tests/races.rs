//! Sessions at the same time.

use std::sync::atomic::{AtomicBool, Ordering};

use super::hooked::{Hook, Hooked};
use super::*;

suite!(
    of_creators_exactly_one_wins,
    a_creator_that_was_overtaken_after_its_upload_says_so,
    replaces_at_the_same_time_get_versions_of_their_own,
    a_replace_gives_up_after_three_rebases,
    a_replace_of_a_model_that_is_dropped_meanwhile_creates_it,
    a_commit_whose_answer_was_lost_counts_once,
    readers_see_whole_versions_while_writers_replace,
    a_writer_that_dies_before_its_commit_changes_nothing,
);

/// Another session that replaces the model, as a hook.
fn other_replaces(place: &Place, model: &'static str) -> Hook {
    let store = place.open();
    Hook::Before(Box::pin(async move {
        replace(&store, model, "other").await.unwrap();
    }))
}

async fn of_creators_exactly_one_wins(place: Place) {
    let barrier = Arc::new(tokio::sync::Barrier::new(8));
    let mut creators = tokio::task::JoinSet::new();
    for i in 0..8 {
        let (store, barrier) = (place.open(), barrier.clone());
        creators.spawn(async move {
            barrier.wait().await;
            create(&store, "same", &format!("by {i}")).await.map(|_| i)
        });
    }
    let (won, lost): (Vec<_>, Vec<_>) = creators.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 7));
    for result in lost {
        assert_says(result, "model 'same' already exists");
    }
    let winner = won.into_iter().next().unwrap().unwrap();
    assert_eq!(content(&place.open(), "same").await.unwrap(), format!("by {winner}"));
}

async fn a_creator_that_was_overtaken_after_its_upload_says_so(place: Place) {
    let store = Hooked::store(&place, [other_replaces(&place, "same")]);
    let error = message(create(&store, "same", "mine").await);
    assert!(error.contains("model 'same' already exists (created by another session)"), "{error}");
    let (_, training) = error.rsplit_once("your run is saved as uncommitted training ").unwrap();
    assert!(place.version_files().await.iter().any(|path| path.contains(training)));
    assert_eq!(content(&store, "same").await.unwrap(), "other");
}

async fn replaces_at_the_same_time_get_versions_of_their_own(place: Place) {
    create(&place.open(), "iris", "zero").await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for i in 0..4 {
        let store = place.open();
        writers.spawn(async move { (i, replace(&store, "iris", &format!("by {i}")).await) });
    }
    let mut committed = Vec::new();
    for (i, result) in writers.join_all().await {
        // Of four writers none is overtaken more than three times.
        committed.push((result.unwrap(), format!("by {i}")));
    }
    committed.sort();
    assert_eq!(committed.iter().map(|(version, _)| *version).collect::<Vec<_>>(), [2, 3, 4, 5]);
    let store = place.open();
    let snapshot = store.snapshot().await.unwrap();
    for (version, content) in committed {
        let version = snapshot.resolve(&name("iris"), Some(version)).unwrap();
        assert_eq!(store.read(version).await.unwrap(), files(&content));
    }
}

async fn a_replace_gives_up_after_three_rebases(place: Place) {
    create(&place.open(), "churn", "one").await.unwrap();
    let three = Hooked::store(&place, (0..3).map(|_| other_replaces(&place, "churn")));
    assert_eq!(replace(&three, "churn", "patient").await.unwrap(), 5);
    let four = Hooked::store(&place, (0..4).map(|_| other_replaces(&place, "churn")));
    let error = message(replace(&four, "churn", "late").await);
    let wanted = "model 'churn' was replaced by another session (version 9); your run is saved as uncommitted training 0";
    assert!(error.contains(wanted), "{error}");
}

async fn a_replace_of_a_model_that_is_dropped_meanwhile_creates_it(place: Place) {
    let other = place.open();
    create(&other, "iris", "one").await.unwrap();
    let drop = Hook::Before(Box::pin(async move {
        other.drop_model(&name("iris"), false).await.unwrap();
    }));
    assert_eq!(replace(&Hooked::store(&place, [drop]), "iris", "two").await.unwrap(), 2);
    assert_eq!(content(&place.open(), "iris").await.unwrap(), "two");
}

async fn a_commit_whose_answer_was_lost_counts_once(place: Place) {
    let store = Hooked::store(&place, [Hook::AnswerLost, Hook::AnswerLost]);
    assert_eq!(create(&store, "iris", "one").await.unwrap(), 1);
    assert_eq!(replace(&store, "iris", "two").await.unwrap(), 2);
    assert_eq!(place.open().snapshot().await.unwrap().model(&name("iris")).unwrap().versions.len(), 2);
}

async fn readers_see_whole_versions_while_writers_replace(place: Place) {
    create(&place.open(), "iris", "1").await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let reading = Arc::new(tokio::sync::Barrier::new(3));
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (store, done, reading) = (place.open(), done.clone(), reading.clone());
        readers.spawn(async move {
            let mut last = 1;
            reading.wait().await;
            loop {
                // Looked at before reading, so that the last version is read too.
                let ended = done.load(Ordering::SeqCst);
                let version: u64 = content(&store, "iris").await.unwrap().parse().unwrap();
                assert!(version >= last, "version {version} after {last}");
                last = version;
                if ended {
                    return last;
                }
            }
        });
    }
    reading.wait().await;
    let writer = place.open();
    for version in 2..=30 {
        assert_eq!(replace(&writer, "iris", &version.to_string()).await.unwrap(), version);
    }
    done.store(true, Ordering::SeqCst);
    assert_eq!(readers.join_all().await, [30, 30]);
}

async fn a_writer_that_dies_before_its_commit_changes_nothing(place: Place) {
    create(&place.open(), "iris", "one").await.unwrap();
    let dying = Hooked::store(&place, [Hook::Crash, Hook::Crash]);
    assert_says(replace(&dying, "iris", "two").await, "committing to model 'iris'");
    assert_says(create(&dying, "other", "two").await, "killed");
    let store = place.open();
    assert_eq!(models(&store).await, ["iris"]);
    assert_eq!(content(&store, "iris").await.unwrap(), "one");
    assert_eq!(place.version_files().await.len(), 6);
    assert_eq!(store.vacuum_after(None, Duration::ZERO).await.unwrap().folders_removed, 2);
    assert_eq!(place.version_files().await.len(), 2);
    assert_eq!(create(&store, "other", "three").await.unwrap(), 1);
}
