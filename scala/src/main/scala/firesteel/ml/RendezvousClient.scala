package firesteel.ml

import java.io.{DataInputStream, DataOutputStream, IOException}
import java.net.{InetSocketAddress, Socket}
import java.util.concurrent.{CountDownLatch, TimeUnit}

import scala.util.control.NonFatal

import com.fasterxml.jackson.databind.JsonNode

/** A worker's connection to the driver.
  *
  * @param silenceMs
  *   a driver that says nothing for so long is gone; it answers each time this worker says that it lives
  */
private[ml] final class RendezvousClient(
    host: String,
    port: Int,
    secret: Array[Byte],
    me: Peer,
    silenceMs: Int
) extends AutoCloseable {

  private val socket = new Socket()
  socket.setTcpNoDelay(true)
  socket.setSoTimeout(silenceMs)
  private val (in, out) =
    try {
      socket.connect(new InetSocketAddress(host, port), silenceMs)
      val in = new DataInputStream(socket.getInputStream)
      val out = new DataOutputStream(socket.getOutputStream)
      Wire.prove(in, out, secret, asDriver = false)
      (in, out)
    } catch {
      case e: IOException =>
        socket.close()
        throw new PeerLostException(s"$me cannot reach the driver at $host:$port: ${e.getMessage}", e)
      case NonFatal(e) => socket.close(); throw e
    }
  @volatile private var peers: Option[IndexedSeq[Peer]] = None
  @volatile private var stopped: Option[RuntimeException] = None
  @volatile private var closed = false
  private val heard = new CountDownLatch(1)

  locally {
    val hello = say("hello").put("rank", me.rank).put("process", me.process)
    hello.put("host", me.host).put("port", me.port).put("executor", me.executor)
    Wire.write(out, hello)
    start("firesteel-worker-alive")(beat())
  }
  private val listener = start("firesteel-worker-listen")(listen())

  private def say(what: String) = Wire.json.createObjectNode().put("type", what)

  private def start(name: String)(run: => Unit): Thread = {
    val thread = new Thread(() => run, name)
    thread.setDaemon(true)
    thread.start()
    thread
  }

  private def listen(): Unit =
    try
      while (true) {
        val message = Wire.read(in)
        message.get("type").asText() match {
          case "world" => peers = Some(read(message.get("peers"))); heard.countDown()
          case "abort" => stop(new CancelledException(message.get("message").asText()))
          case _ => // An answer to `alive`.
        }
      }
    catch {
      case NonFatal(e) =>
        stop(new PeerLostException(s"$me lost the driver at $host:$port: ${e.getMessage}", e))
    }

  private def stop(why: RuntimeException): Unit = if (!closed) {
    if (stopped.isEmpty) stopped = Some(why)
    heard.countDown()
  }

  private def beat(): Unit =
    try
      while (!closed) {
        Wire.write(out, say("alive"))
        Thread.sleep(Liveness.beatMs(silenceMs))
      }
    catch { case _: IOException | _: InterruptedException => } // `listen` reports it.

  private def read(list: JsonNode): IndexedSeq[Peer] =
    (0 until list.size).map { rank =>
      val p = list.get(rank)
      Peer(rank, p.get("process").asText(), p.get("host").asText(), p.get("port").asInt(), "")
    }

  /** Throws what ended this attempt elsewhere: another worker's failure, or the driver's end. */
  def check(): Unit = stopped.foreach(throw _)

  /** Says that this worker has its rows, and waits until all have; `check` runs while it waits. */
  def meet(check: () => Unit): IndexedSeq[Peer] = {
    send(say("ready"))
    while (!heard.await(50, TimeUnit.MILLISECONDS)) check()
    this.check()
    peers.getOrElse(throw new InternalException("the driver said nothing of the other workers"))
  }

  def event(event: JsonNode): Unit = send(say("event").set[JsonNode]("event", event))

  def done(): Unit = send(say("done"))

  def failed(e: Throwable): Unit = {
    val message = Option(e.getMessage).getOrElse(e.toString)
    send(say("failed").put("exception", e.getClass.getName).put("message", message))
  }

  /** What cannot be said is not worth failing for: the connection's end is reported by `check`. */
  private def send(message: JsonNode): Unit =
    try Wire.write(out, message)
    catch { case _: IOException => }

  /** Waits until the driver has heard all and ends the connection: one that ends here, with its answers unread, would take along
    * what it has not read yet.
    */
  override def close(): Unit = {
    closed = true
    try {
      socket.shutdownOutput()
      listener.join(farewellMs)
    } catch {
      case _: IOException =>
      case _: InterruptedException => Thread.currentThread().interrupt()
    } finally socket.close()
  }

  private val farewellMs = 10000L
}
