package firesteel.ml

import java.io.{DataInputStream, DataOutputStream, IOException}
import java.nio.charset.StandardCharsets.UTF_8
import java.security.{MessageDigest, SecureRandom}
import javax.crypto.Mac
import javax.crypto.spec.SecretKeySpec

import com.fasterxml.jackson.databind.{JsonNode, ObjectMapper}

/** What the driver and the workers say to each other: JSON behind a length, after both have proved that they
  * know the job's secret.
  */
private[ml] object Wire {
  val json = new ObjectMapper()
  private val random = new SecureRandom()
  private val nonceBytes = 32

  /** Longer messages are refused before memory is given to them. */
  val longest: Int = 16 << 20

  def secret(): Array[Byte] = {
    val bytes = new Array[Byte](nonceBytes)
    random.nextBytes(bytes)
    bytes
  }

  def write(out: DataOutputStream, message: JsonNode): Unit = out.synchronized {
    val bytes = json.writeValueAsBytes(message)
    out.writeInt(bytes.length)
    out.write(bytes)
    out.flush()
  }

  def read(in: DataInputStream): JsonNode = {
    val length = in.readInt()
    if (length < 0 || length > longest) throw new IOException(s"a message of $length bytes is refused")
    val bytes = new Array[Byte](length)
    in.readFully(bytes)
    json.readTree(new String(bytes, UTF_8))
  }

  /** Challenge and response, both ways; payload follows only when both hold. `asDriver` speaks first. */
  def prove(in: DataInputStream, out: DataOutputStream, secret: Array[Byte], asDriver: Boolean): Unit = {
    val mine = Wire.secret()
    out.write(mine)
    out.flush()
    val theirs = in.readNBytes(nonceBytes)
    if (theirs.length < nonceBytes)
      throw new UnauthenticatedException("the peer left before it proved itself")
    val (me, peer) = if (asDriver) ("driver", "worker") else ("worker", "driver")
    out.write(hmac(secret, me, theirs, mine))
    out.flush()
    val proof = in.readNBytes(nonceBytes)
    if (!MessageDigest.isEqual(proof, hmac(secret, peer, mine, theirs)))
      throw new UnauthenticatedException(s"the $peer did not prove that it knows the job's secret")
  }

  private def hmac(secret: Array[Byte], role: String, nonces: Array[Byte]*): Array[Byte] = {
    val mac = Mac.getInstance("HmacSHA256")
    mac.init(new SecretKeySpec(secret, "HmacSHA256"))
    mac.update(role.getBytes(UTF_8))
    nonces.foreach(mac.update)
    mac.doFinal()
  }
}
