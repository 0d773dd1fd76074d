//! What a vacuum removes, and what not.

use super::hooked::{Hook, Hooked};
use super::*;

suite!(
    an_uncommitted_training_goes_after_its_grace,
    a_checkpoint_stays_for_a_week,
    what_workers_pass_on_stays_for_a_day,
    old_versions_go_but_the_active_one_stays,
    a_dropped_version_can_be_read_until_its_grace_is_over,
    a_commit_during_a_vacuum_is_safe,
    a_vacuum_leaves_what_is_not_ours,
);

async fn an_uncommitted_training_goes_after_its_grace(place: Place) {
    let store = place.open();
    create(&store, "iris", "one").await.unwrap();
    let upload = store.upload(&name("iris"), 2, files("two")).await.unwrap();
    let report = store.vacuum(None).await.unwrap();
    assert_eq!(report, VacuumReport { folders_waiting: 1, ..VacuumReport::default() });
    store.check_upload(&upload).await.unwrap();
    let report = store.vacuum_after(None, Duration::ZERO).await.unwrap();
    assert_eq!((report.folders_removed, report.files_removed, report.bytes_removed), (1, 2, 6));
    assert_says(store.check_upload(&upload).await, "the upload took so long that");
    assert_eq!(content(&place.open(), "iris").await.unwrap(), "one");
    assert_eq!(place.version_files().await.len(), 2);
}

async fn a_checkpoint_stays_for_a_week(place: Place) {
    let store = place.open();
    assert_eq!(store.checkpoint(&name("iris"), "key").await.unwrap(), None);
    for content in ["one", "two"] {
        store.keep_checkpoint(&name("iris"), "key", Bytes::from(content)).await.unwrap();
    }
    assert_eq!(place.open().checkpoints(&name("iris")).await.unwrap(), ["key"]);
    // It is no model, and it is in the way of none.
    assert!(models(&place.open()).await.is_empty());
    replace(&store, "iris", "one").await.unwrap();
    assert_eq!(store.vacuum(None).await.unwrap(), VacuumReport::default());
    assert_eq!(place.open().checkpoint(&name("iris"), "key").await.unwrap(), Some(Bytes::from("two")));
    // A writer that was killed.
    let killed = store.root.as_ref().map(|root| root.join("public/iris/checkpoint/key#1"));
    if let Some(killed) = &killed {
        std::fs::write(killed, "tw").unwrap();
    }
    let report = store.vacuum_after(None, Duration::ZERO).await.unwrap();
    assert_eq!((report.checkpoints_removed, report.bytes_removed, report.folders_removed), (1, 3, 0));
    assert!(killed.is_none_or(|killed| !killed.exists()));
    assert_eq!(store.checkpoint(&name("iris"), "key").await.unwrap(), None);
    store.drop_checkpoint(&name("iris"), "key").await.unwrap();
    assert_eq!(content(&place.open(), "iris").await.unwrap(), "one");
}

async fn what_workers_pass_on_stays_for_a_day(place: Place) {
    let store = place.open();
    let folders = [WorkFolder::new(&name("iris")), WorkFolder::new(&name("iris"))];
    let mut files = Vec::new();
    for folder in &folders {
        store.begin_work(folder).await.unwrap();
        assert_says(store.begin_work(folder).await, "this training of 'iris' is running already");
        files.push(store.keep_work(folder, Bytes::from("state")).await.unwrap());
        assert_eq!(store.keep_work(folder, Bytes::from("state")).await.unwrap(), files[0]);
    }
    assert_eq!(place.open().work(&folders[0], &files[0]).await.unwrap(), "state");
    assert!(models(&place.open()).await.is_empty());
    // One ends.
    store.end_work(&folders[0]).await.unwrap();
    let e = store.work(&folders[0], &files[0]).await.unwrap_err().to_string();
    assert!(e.contains("reading a file of the training of 'iris'"), "{e}");
    assert_says(store.keep_work(&folders[0], Bytes::from("late")).await, "the training of 'iris' has ended");
    // The other was killed.
    let report = store.vacuum(None).await.unwrap();
    assert_eq!((report.folders_removed, report.folders_waiting), (0, 1));
    assert_eq!(store.work(&folders[1], &files[1]).await.unwrap(), "state");
    let report = store.vacuum_after(None, Duration::ZERO).await.unwrap();
    assert_eq!((report.folders_removed, report.files_removed, report.bytes_removed), (1, 2, 5));
    store.work(&folders[1], &files[1]).await.unwrap_err();
    store.drop_work(&folders[1], &files[1]).await.unwrap();
}

async fn old_versions_go_but_the_active_one_stays(place: Place) {
    let store = place.open();
    for content in ["one", "two", "three", "four"] {
        replace(&store, "iris", content).await.unwrap();
    }
    store.activate(&name("iris"), 1).await.unwrap();
    let report = store.vacuum_after(Some(2), Duration::ZERO).await.unwrap();
    assert_eq!((report.versions_dropped, report.folders_removed), (1, 1));
    let snapshot = place.open().snapshot().await.unwrap();
    let versions: Vec<_> = snapshot.model(&name("iris")).unwrap().versions.keys().copied().collect();
    assert_eq!(versions, [1, 3, 4]);
    assert_eq!(content(&place.open(), "iris").await.unwrap(), "one");
    assert_eq!(store.vacuum_after(Some(2), Duration::ZERO).await.unwrap(), VacuumReport::default());
}

async fn a_dropped_version_can_be_read_until_its_grace_is_over(place: Place) {
    let store = place.open();
    replace(&store, "iris", "one").await.unwrap();
    let before = store.snapshot().await.unwrap();
    replace(&store, "iris", "two").await.unwrap();
    let report = store.vacuum(Some(1)).await.unwrap();
    assert_eq!((report.versions_dropped, report.folders_removed, report.folders_waiting), (1, 0, 1));
    let pinned = before.resolve(&name("iris"), None).unwrap();
    assert_eq!(store.read(pinned).await.unwrap(), files("one"));
    assert_eq!(store.vacuum_after(None, Duration::ZERO).await.unwrap().folders_removed, 1);
    assert_says(store.read(pinned).await, "model.json of model 'iris' version 1 is gone");
}

/// The folders are listed before the logs are read.
async fn a_commit_during_a_vacuum_is_safe(place: Place) {
    let (store, other) = (place.open(), place.open());
    replace(&store, "iris", "one").await.unwrap();
    replace(&store, "iris", "two").await.unwrap();
    let hook = Hook::Before(Box::pin(async move {
        replace(&other, "late", "three").await.unwrap();
    }));
    Hooked::store(&place, [hook]).vacuum_after(Some(1), Duration::ZERO).await.unwrap();
    assert_eq!(content(&store, "late").await.unwrap(), "three");
    assert_eq!(content(&store, "iris").await.unwrap(), "two");
}

async fn a_vacuum_leaves_what_is_not_ours(place: Place) {
    let store = place.open();
    create(&store, "iris", "one").await.unwrap();
    let prefix = store.prefix.clone();
    let notes = ["public/iris/v/notes/readme.txt", "public/iris/notes.txt", "Other/x/v/0000000001-a/f"];
    for note in notes {
        place.store.put(&layout::within(&prefix, note).unwrap(), "note".into()).await.unwrap();
    }
    let before = place.files().await.len();
    store.vacuum_after(None, Duration::ZERO).await.unwrap();
    assert_eq!(place.files().await.len(), before);
    assert_eq!(models(&store).await, ["iris"]);
}

#[tokio::test]
async fn on_disk_the_folder_goes_with_a_file_that_was_never_finished() {
    let place = Place::local();
    let store = place.open();
    create(&store, "iris", "one").await.unwrap();
    let upload = store.upload(&name("iris"), 2, files("two")).await.unwrap();
    let folder = place.folder.as_ref().unwrap().path().join(&upload.path);
    std::fs::write(folder.join("weights.safetensors#1"), "half").unwrap();
    store.vacuum_after(None, Duration::ZERO).await.unwrap();
    assert!(!folder.exists());
    assert_eq!(content(&store, "iris").await.unwrap(), "one");
}
