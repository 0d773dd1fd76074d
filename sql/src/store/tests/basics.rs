//! What one session after another can do.

use datafusion::execution::object_store::ObjectStoreUrl;
use futures::TryStreamExt;

use super::*;

suite!(
    a_model_is_created_listed_and_read,
    a_model_that_exists_is_not_created_again,
    a_replace_adds_a_version_and_activates_it,
    an_older_version_can_be_activated_and_read,
    versions_are_dropped_but_not_the_active_one,
    a_dropped_model_leaves_no_ghost_and_can_be_created_again,
    a_model_is_described,
    a_missing_model_is_named_with_the_nearest,
    names_of_any_kind_do_not_collide,
    a_file_that_changed_is_named,
    a_newer_format_breaks_its_model_only,
    a_log_that_cannot_be_read_breaks_its_model_only,
    a_snapshot_stays_as_it_was,
    a_snapshot_is_the_same_until_something_changes,
    a_ttl_spares_the_look_but_not_for_own_writes,
    a_store_that_was_emptied_is_read_anew,
);

async fn a_model_is_created_listed_and_read(place: Place) {
    assert_eq!(create(&place.open(), "iris", "one").await.unwrap(), 1);
    let store = place.open();
    assert_eq!(models(&store).await, ["iris"]);
    assert_eq!(content(&store, "iris").await.unwrap(), "one");
    let snapshot = store.snapshot().await.unwrap();
    let version = snapshot.resolve(&name("iris"), Some(1)).unwrap();
    assert_eq!(version.info, info("one"));
    assert_eq!(version.bytes(), 6);
    assert!(version.path.starts_with("public/iris/v/0000000001-"), "{}", version.path);
    assert!(version.created_at > 1_700_000_000_000);
}

async fn a_model_that_exists_is_not_created_again(place: Place) {
    create(&place.open(), "iris", "one").await.unwrap();
    let before = place.files().await;
    assert_says(create(&place.open(), "iris", "two").await, "model 'iris' already exists");
    assert_eq!(place.files().await, before);
}

async fn a_replace_adds_a_version_and_activates_it(place: Place) {
    let store = place.open();
    assert_eq!(replace(&store, "iris", "one").await.unwrap(), 1);
    assert_eq!(replace(&place.open(), "iris", "two").await.unwrap(), 2);
    assert_eq!(content(&store, "iris").await.unwrap(), "two");
}

async fn an_older_version_can_be_activated_and_read(place: Place) {
    let store = place.open();
    for content in ["one", "two"] {
        replace(&store, "iris", content).await.unwrap();
    }
    store.activate(&name("iris"), 1).await.unwrap();
    assert_eq!(content(&place.open(), "iris").await.unwrap(), "one");
    let snapshot = store.snapshot().await.unwrap();
    let pinned = snapshot.resolve(&name("iris"), Some(2)).unwrap();
    assert_eq!(store.read(pinned).await.unwrap(), files("two"));
    assert_says(store.activate(&name("iris"), 3).await, "model 'iris' has no version 3; it has 1, 2");
    assert_says(store.activate(&name("isis"), 1).await, "did you mean 'iris'?");
    assert_eq!(replace(&store, "iris", "three").await.unwrap(), 3);
    assert_eq!(content(&store, "iris").await.unwrap(), "three");
}

async fn versions_are_dropped_but_not_the_active_one(place: Place) {
    let store = place.open();
    for content in ["one", "two"] {
        replace(&store, "iris", content).await.unwrap();
    }
    assert_says(store.drop_version(&name("iris"), 2).await, "version 2 of model 'iris' is the active one");
    store.activate(&name("iris"), 1).await.unwrap();
    store.drop_version(&name("iris"), 2).await.unwrap();
    assert_says(store.drop_version(&name("iris"), 2).await, "model 'iris' has no version 2; it has 1");
    // Its number stays taken.
    assert_eq!(replace(&place.open(), "iris", "three").await.unwrap(), 3);
}

async fn a_dropped_model_leaves_no_ghost_and_can_be_created_again(place: Place) {
    let store = place.open();
    replace(&store, "iris", "one").await.unwrap();
    replace(&store, "iris", "two").await.unwrap();
    assert!(store.drop_model(&name("iris"), false).await.unwrap());
    assert!(models(&place.open()).await.is_empty());
    assert_says(
        store.drop_model(&name("iris"), false).await,
        "model 'iris' not found; there are no models yet",
    );
    assert!(!store.drop_model(&name("iris"), true).await.unwrap());
    // Whoever planned with version 1 never gets another model's.
    assert_eq!(create(&place.open(), "iris", "new").await.unwrap(), 3);
    assert_eq!(content(&store, "iris").await.unwrap(), "new");
    store.vacuum_after(None, Duration::ZERO).await.unwrap();
    assert_eq!(place.version_files().await.len(), 2);
    assert_eq!(content(&place.open(), "iris").await.unwrap(), "new");
}

async fn a_model_is_described(place: Place) {
    let store = place.open();
    let first = CommitInfo { description: Some("first".into()), ..info("one") };
    store.create(&name("iris"), files("one"), first, CreateMode::New).await.unwrap();
    store.describe(&name("iris"), None, Some(vec!["a".into(), "b".into()])).await.unwrap();
    replace(&store, "iris", "two").await.unwrap();
    let described = async |store: &ModelStore| {
        let snapshot = store.snapshot().await.unwrap();
        let model = snapshot.model(&name("iris")).unwrap();
        (model.description.clone().unwrap(), model.labels.join("+"))
    };
    assert_eq!(described(&place.open()).await, ("first".into(), "a+b".into()));
    store.describe(&name("iris"), Some("second".into()), None).await.unwrap();
    assert_eq!(described(&place.open()).await, ("second".into(), "a+b".into()));
    assert_says(store.describe(&name("x"), None, None).await, "model 'x' not found; SHOW MODELS lists 1");
}

async fn a_missing_model_is_named_with_the_nearest(place: Place) {
    let store = place.open();
    for model in ["churn", "iris", "digits"] {
        create(&store, model, model).await.unwrap();
    }
    let snapshot = store.snapshot().await.unwrap();
    let wanted = "model 'chrun' not found; did you mean 'churn'? SHOW MODELS lists 3";
    assert_says(snapshot.resolve(&name("chrun"), None), wanted);
    assert_says(snapshot.resolve(&name("IRIS"), None), "did you mean 'iris'?");
    assert_says(snapshot.resolve(&name("weather"), None), "model 'weather' not found; SHOW MODELS lists 3");
}

async fn names_of_any_kind_do_not_collide(place: Place) {
    let store = place.open();
    let strange = [
        "iris", "Iris", "a/b", "..", ".", "it's", "a \"b\"", "über", "花", "%41", "A", "a#1", "*", "\\", "v",
        "log",
    ];
    let schemas = ["public", "Public", "a/b"];
    let names =
        || schemas.iter().flat_map(|s| strange.map(|n| ModelName { schema: s.to_string(), name: n.into() }));
    for name in names() {
        let content = format!("{name:?}");
        store.create(&name, files(&content), info(""), CreateMode::New).await.unwrap();
    }
    let store = place.open();
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.models().count(), strange.len() * schemas.len());
    for name in names() {
        let read = store.read(snapshot.resolve(&name, None).unwrap()).await.unwrap();
        assert_eq!(read, files(&format!("{name:?}")));
    }
    assert_says(store.create(&name(""), files(""), info(""), CreateMode::New).await, "is empty");
}

async fn a_file_that_changed_is_named(place: Place) {
    let store = place.open();
    replace(&store, "iris", "one").await.unwrap();
    replace(&store, "iris", "two").await.unwrap();
    let path =
        place.version_files().await.into_iter().find(|path| path.contains("2-") && path.ends_with("tensors"));
    let path = Path::parse(path.unwrap()).unwrap();
    place.store.put(&path, "owt".into()).await.unwrap();
    let wanted = "weights.safetensors of model 'iris' version 2 does not have the checksum of its commit";
    assert_says(content(&store, "iris").await, wanted);
    place.store.delete(&path).await.unwrap();
    assert_says(content(&store, "iris").await, "weights.safetensors of model 'iris' version 2 is gone");
}

/// Puts an entry of a log that no writer of this version would.
async fn put_raw(place: &Place, model: &str, sequence: u64, json: &str) {
    let store = place.open();
    let path = layout::entry(&layout::log(&store.prefix, &name(model)).unwrap(), sequence);
    store.store.put(&path, json.to_string().into()).await.unwrap();
}

async fn a_newer_format_breaks_its_model_only(place: Place) {
    let store = place.open();
    create(&store, "iris", "one").await.unwrap();
    create(&store, "old", "one").await.unwrap();
    put_raw(&place, "iris", 2, r#"{"format_version": 4, "engine_version": "9.0", "action": "quantise"}"#)
        .await;
    assert_eq!(models(&store).await, ["old"]);
    let wanted = "model 'iris' was written by engine 9.0 in format 4";
    assert_says(store.snapshot().await.unwrap().resolve(&name("iris"), None), wanted);
    assert_says(replace(&place.open(), "iris", "two").await, wanted);
    assert_says(store.drop_model(&name("iris"), true).await, wanted);
    assert_says(store.rename(&name("old"), &name("iris")).await, wanted);
    assert_says(store.vacuum(None).await, wanted);
    assert_eq!(replace(&store, "old", "two").await.unwrap(), 2);
}

async fn a_log_that_cannot_be_read_breaks_its_model_only(place: Place) {
    let store = place.open();
    for model in ["torn", "gap", "good"] {
        create(&store, model, "one").await.unwrap();
    }
    put_raw(&place, "torn", 2, "{").await;
    put_raw(&place, "gap", 3, "{}").await;
    for store in [&store, &place.open()] {
        assert_eq!(models(store).await, ["good"]);
        let snapshot = store.snapshot().await.unwrap();
        assert_says(snapshot.resolve(&name("torn"), None), "log entry 2 of model 'torn' is not readable");
        assert_says(snapshot.resolve(&name("gap"), None), "log entry 2 of model 'gap' is missing");
    }
}

async fn a_snapshot_stays_as_it_was(place: Place) {
    let store = place.open();
    create(&store, "iris", "one").await.unwrap();
    let before = store.snapshot().await.unwrap();
    replace(&store, "iris", "two").await.unwrap();
    store.drop_model(&name("iris"), false).await.unwrap();
    let pinned = before.resolve(&name("iris"), None).unwrap();
    assert_eq!(store.read(pinned).await.unwrap(), files("one"));
}

async fn a_snapshot_is_the_same_until_something_changes(place: Place) {
    let store = place.open();
    create(&store, "iris", "one").await.unwrap();
    let first = store.snapshot().await.unwrap();
    assert!(Arc::ptr_eq(&first, &store.snapshot().await.unwrap()));
    replace(&place.open(), "iris", "two").await.unwrap();
    assert!(!Arc::ptr_eq(&first, &store.snapshot().await.unwrap()));
}

async fn a_ttl_spares_the_look_but_not_for_own_writes(place: Place) {
    let store = place.open().with_ttl(Duration::from_secs(3600));
    create(&store, "iris", "one").await.unwrap();
    assert_eq!(content(&store, "iris").await.unwrap(), "one");
    replace(&place.open(), "iris", "two").await.unwrap();
    assert_eq!(content(&store, "iris").await.unwrap(), "one");
    assert_eq!(replace(&store, "iris", "three").await.unwrap(), 3);
    assert_eq!(content(&store, "iris").await.unwrap(), "three");
}

async fn a_store_that_was_emptied_is_read_anew(place: Place) {
    let store = place.open();
    for content in ["one", "two", "three"] {
        replace(&store, "iris", content).await.unwrap();
    }
    assert_eq!(content(&store, "iris").await.unwrap(), "three");
    let all = place.store.list(None).map_ok(|file| file.location);
    let _: Vec<_> = place.store.delete_stream(Box::pin(all)).try_collect().await.unwrap();
    create(&place.open(), "iris", "other").await.unwrap();
    assert_eq!(content(&store, "iris").await.unwrap(), "other");
    assert_eq!(replace(&store, "iris", "more").await.unwrap(), 2);
}

#[tokio::test]
async fn a_store_opens_by_path_or_url() {
    let folder = TempDir::new().unwrap();
    let runtime = RuntimeEnv::default();
    let path = folder.path().join("my models");
    let store = ModelStore::from_url(path.to_str().unwrap(), &runtime).unwrap();
    create(&store, "iris", "one").await.unwrap();
    assert!(path.join("public/iris/log/0000000001.json").is_file());
    let url = format!("file://{}", path.to_str().unwrap());
    assert_eq!(models(&ModelStore::from_url(&url, &runtime).unwrap()).await, ["iris"]);

    let bucket = ObjectStoreUrl::parse("memory://bucket").unwrap();
    runtime.register_object_store(bucket.as_ref(), Arc::new(InMemory::new()));
    let store = ModelStore::from_url("memory://bucket/team/models", &runtime).unwrap();
    create(&store, "iris", "one").await.unwrap();
    let again = ModelStore::from_url("memory://bucket/team/models/", &runtime).unwrap();
    assert_eq!(models(&again).await, ["iris"]);
    assert!(ModelStore::from_url("s3://nobody/registered", &runtime).is_err());
}
