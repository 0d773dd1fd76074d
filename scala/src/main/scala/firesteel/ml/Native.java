package firesteel.ml;

/**
 * The functions of the native library, in the order of its own table (jvm-bindings/src/exports.rs).
 * Handles are opaque; {@link NativeLibrary#load} comes before the first call.
 */
final class Native {
  private Native() {}

  /** The library's own version. */
  static native String version();

  /** How many handles are open. */
  static native long openHandles();

  /** Fails or panics as asked: what the tests of the boundary call. */
  static native void fail(String how);

  /** Closes any handle; a closed one is left alone. */
  static native void close(long handle);

  /** Room for rows of these columns, a JSON list of names and kinds. */
  static native long batchNew(String columns, int capacity);

  /** Four numbers a column: addresses of validity, offsets and values, and the bytes of values. */
  static native long[] batchAddresses(long batch);

  /** Makes room for so many bytes of values in a column; gives the values' address, which may be new. */
  static native long batchReserve(long batch, int column, long bytes);

  /** Refuses a network's JSON that is not one. */
  static native void checkNetwork(String network);

  /** A bound socket for a worker; 0 lets the system choose the port. */
  static native long listenerOpen(String host);

  static native int listenerPort(long listener);

  /** Refuses what a training with this configuration would refuse before it looks at a row. */
  static native void checkConfig(String config);

  /** Refuses a number of workers that a training with this configuration cannot have. */
  static native void checkWorkers(String config, int workers);

  /** A name for the checkpoints of trainings with this configuration: another that may not go on from them has
   * another. */
  static native String checkpointKey(String config);

  /** An empty shard for the worker of this rank, for a training's configuration, and the device that is to compute
   * with it; `gpus` are the addresses of those that Spark gave the task. */
  static native long shardNew(String config, int rank, String[] gpus);

  /** Moves the first rows of a batch into a shard; the batch's addresses are void from here on. */
  static native void shardPush(long shard, long batch, int rows);

  /** Starts training on threads of its own. Takes what is in the shard and the listener. `resume` may be null. */
  static native long trainStart(long shard, long listener, String config, String world, byte[] resume);

  /** Events since the last poll as JSON, waiting so long for the first; null after the last one. Throws what ended
   * training. */
  static native String[] trainPoll(long training, int millis);

  /** Asks training to stop; the next polls say when it has. */
  static native void trainCancel(long training);

  /** The latest checkpoint, or null when it was given before. */
  static native byte[] trainCheckpoint(long training);

  /** The names of the model's files, once training has ended. */
  static native String[] trainFiles(long training);

  static native byte[] trainFile(long training, String name);

  /** A model from its files. */
  static native long modelOpen(String[] names, byte[][] files);

  /** Its task, features and sizes as JSON. */
  static native String modelInfo(long model);

  /** A scorer that one thread calls. Its settings are a JSON object: `handle_invalid` as the hyper-parameter of that
   * name, and `threads`, on which it computes. */
  static native long scorerNew(long model, String settings);

  /** Scores the first rows of a batch, whose addresses are void from here on. Gives the address of the outputs,
   * (rows, outputs) f32, and of a byte a row that says which are to be dropped (0 when none is); both hold
   * until the next call. */
  static native long[] scorerRun(long scorer, long batch, int rows);
}
