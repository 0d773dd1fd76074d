package firesteel.ml

import java.io.{DataInputStream, DataOutputStream, IOException}
import java.net.{InetAddress, InetSocketAddress, ServerSocket, Socket, SocketTimeoutException}
import java.util.concurrent.ConcurrentHashMap

import scala.collection.mutable.ArrayBuffer
import scala.jdk.CollectionConverters._
import scala.util.control.NonFatal

import com.fasterxml.jackson.databind.JsonNode
import org.apache.spark.TaskKilledException

/** Who a worker is and where the others reach it. `process` is the same for workers of one JVM. */
private[ml] final case class Peer(rank: Int, process: String, host: String, port: Int, executor: String) {
  override def toString: String = s"worker $rank (executor $executor on $host)"
}

/** What ended a worker: the exception's class and message, as the worker saw it. */
private[ml] final case class Failure(peer: Peer, exception: String, message: String)

/** How driver and workers notice that the other's process is gone or stands still. How long a step of training may
  * take is another matter: that is `timeoutSeconds`, and the native library's.
  */
private[ml] object Liveness {

  /** How often each says that it lives. */
  val beatMs = 1000

  /** Who says nothing for so long is lost: much longer than a garbage collection stops a process. */
  val mostSilentMs = 120000

  /** The silence that a fit bears. */
  def silenceMs(timeoutSeconds: Double): Int =
    math.min(math.ceil(timeoutSeconds * 1000), mostSilentMs.toDouble).toInt

  def beatMs(silenceMs: Int): Int = math.max(10, math.min(beatMs, silenceMs / 4))
}

/** The server on the driver where the workers of one attempt meet. Each keeps its connection while it trains:
  * progress and failures come over it, and its end says that the worker is gone.
  *
  * @param silenceMs
  *   a worker that says nothing for so long is lost
  */
private[ml] final class Rendezvous(
    host: String,
    world: Int,
    secret: Array[Byte],
    silenceMs: Int,
    onEvent: JsonNode => Unit
) extends AutoCloseable {

  private val server = new ServerSocket()
  server.bind(new InetSocketAddress(InetAddress.getByName(host), 0), 128)

  private val connections = ConcurrentHashMap.newKeySet[Socket]()
  private val outputs = new Array[DataOutputStream](world)
  private val peers = new Array[Peer](world)
  private val ready = new Array[Boolean](world)
  private val finished = new Array[Boolean](world)
  private val reported = ArrayBuffer.empty[Failure]
  private val departed = ArrayBuffer.empty[Failure]
  @volatile private var closed = false

  start("firesteel-rendezvous")(accept())

  def port: Int = server.getLocalPort

  /** Where workers in this very process reach it: what others call the driver may not lead back to it. */
  def localHost: String = {
    val bound = server.getInetAddress
    (if (bound.isAnyLocalAddress) InetAddress.getLoopbackAddress else bound).getHostAddress
  }

  /** The failure that came first, the consequences of a lost peer last; waits a little, because what a worker
    * says may arrive after Spark noticed its end.
    */
  def firstCause(): Option[Failure] = {
    val deadline = System.nanoTime() + 2000000000L
    def unfinished = peers.exists(p => p != null && !finished(p.rank) && !ended(p.rank))
    synchronized {
      while (unfinished && System.nanoTime() < deadline) wait(50)
      val consequences =
        Set[Class[_]](classOf[PeerLostException], classOf[CancelledException], classOf[TaskKilledException])
          .map(_.getName)
      val own = reported.filterNot(f => consequences(f.exception))
      own.headOption.orElse(departed.headOption).orElse(reported.headOption)
    }
  }

  /** Waits until every worker has said its last, or is lost: after a job's end, when that is on its way. */
  def awaitAll(): Unit = {
    val deadline = System.nanoTime() + farewellMs * 1000000
    synchronized {
      while (!(0 until world).forall(r => finished(r) || ended(r)) && System.nanoTime() < deadline) wait(50)
    }
  }

  private val farewellMs = 10000L

  private def ended(rank: Int): Boolean = (reported ++ departed).exists(_.peer.rank == rank)

  private def start(name: String)(run: => Unit): Unit = {
    val thread = new Thread(() => run, name)
    thread.setDaemon(true)
    thread.start()
  }

  private def accept(): Unit =
    try
      while (!closed) {
        val socket = server.accept()
        connections.add(socket)
        start("firesteel-rendezvous-worker")(serve(socket))
      }
    catch { case _: IOException if closed => }

  private def serve(socket: Socket): Unit = {
    var peer: Peer = null
    try {
      socket.setTcpNoDelay(true)
      socket.setSoTimeout(silenceMs)
      val in = new DataInputStream(socket.getInputStream)
      val out = new DataOutputStream(socket.getOutputStream)
      Wire.prove(in, out, secret, asDriver = true)
      peer = welcome(Wire.read(in), out)
      while (!finished(peer.rank)) hear(peer, Wire.read(in), out)
    } catch {
      case _: SocketTimeoutException if peer != null =>
        depart(peer, s"$peer was lost: it said nothing for ${silenceMs / 1000.0} s")
      case NonFatal(_) if peer != null => depart(peer, s"$peer was lost: its connection to the driver ended")
      // A stranger, or a worker that died before it said its name: Spark reports the task.
      case NonFatal(_) =>
    } finally {
      connections.remove(socket)
      socket.close()
    }
  }

  private def welcome(hello: JsonNode, out: DataOutputStream): Peer = synchronized {
    val rank = hello.get("rank").asInt()
    if (rank < 0 || rank >= world || peers(rank) != null)
      throw new IOException(s"there is no place for rank $rank of $world")
    val peer = Peer(
      rank,
      hello.get("process").asText(),
      hello.get("host").asText(),
      hello.get("port").asInt(),
      hello.get("executor").asText()
    )
    peers(rank) = peer
    outputs(rank) = out
    peer
  }

  private def hear(peer: Peer, message: JsonNode, out: DataOutputStream): Unit =
    message.get("type").asText() match {
      case "alive" => Wire.write(out, message)
      case "ready" => arrive(peer)
      case "event" => onEvent(message.get("event"))
      case "failed" =>
        val failure = Failure(peer, message.get("exception").asText(), message.get("message").asText())
        synchronized {
          if (!ended(peer.rank)) reported += failure
          finished(peer.rank) = true
          notifyAll()
        }
        abort(s"$peer failed: ${failure.message}")
      case "done" => synchronized { finished(peer.rank) = true; notifyAll() }
      case other => throw new IOException(s"a message of type $other is not known")
    }

  /** When the last worker is ready, everyone hears who the others are. A worker that cannot hear it is lost, whoever
    * arrived last.
    */
  private def arrive(peer: Peer): Unit = {
    val deaf = synchronized {
      ready(peer.rank) = true
      if (ready.forall(identity)) peers.toSeq.filterNot(isHeard(_, everyone)) else Seq.empty
    }
    deaf.foreach(p => depart(p, s"$p was lost: its connection to the driver ended"))
  }

  private def everyone: JsonNode = {
    val message = Wire.json.createObjectNode().put("type", "world")
    val list = message.putArray("peers")
    peers.foreach(p => list.addObject().put("process", p.process).put("host", p.host).put("port", p.port))
    message
  }

  private def isHeard(peer: Peer, message: JsonNode): Boolean =
    try { Wire.write(outputs(peer.rank), message); true }
    catch { case _: IOException => false }

  private def depart(peer: Peer, message: String): Unit = if (!closed) {
    val isNew = synchronized {
      val isNew = !ended(peer.rank)
      if (isNew) departed += Failure(peer, classOf[PeerLostException].getName, message)
      notifyAll()
      isNew
    }
    if (isNew) abort(message)
  }

  private def abort(why: String): Unit = {
    val message = Wire.json.createObjectNode().put("type", "abort").put("message", why)
    synchronized(peers.filter(_ != null)).foreach(isHeard(_, message))
  }

  override def close(): Unit = {
    closed = true
    server.close()
    connections.asScala.foreach(_.close())
  }
}
