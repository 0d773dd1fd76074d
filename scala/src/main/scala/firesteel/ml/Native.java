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
}
