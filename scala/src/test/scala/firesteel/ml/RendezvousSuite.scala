package firesteel.ml

import java.io.{DataInputStream, DataOutputStream}
import java.net.Socket
import java.util.concurrent.{CountDownLatch, TimeUnit}
import java.util.concurrent.atomic.{AtomicInteger, AtomicReference}

import com.fasterxml.jackson.databind.JsonNode
import org.scalatest.funsuite.AnyFunSuite

/** The server on the driver where workers meet. */
class RendezvousSuite extends AnyFunSuite {
  private val host = "127.0.0.1"
  private val secret = Wire.secret()

  private def server(world: Int, silenceMs: Int = 5000, onEvent: JsonNode => Unit = _ => ()) =
    new Rendezvous(host, world, secret, silenceMs, onEvent)

  private def client(s: Rendezvous, rank: Int, secret: Array[Byte] = secret, silenceMs: Int = 5000) =
    new RendezvousClient(host, s.port, secret, Peer(rank, s"p$rank", host, 1000 + rank, s"e$rank"), silenceMs)

  private def concurrently[T](runs: Seq[() => T]): Seq[T] = {
    val results = runs.map(_ => new AtomicReference[Either[Throwable, T]]())
    val threads = runs.zip(results).map { case (run, result) =>
      val t = new Thread(() =>
        result.set(
          try Right(run())
          catch { case e: Throwable => Left(e) }
        ))
      t.start()
      t
    }
    threads.foreach(_.join(20000))
    results.map(_.get.fold(throw _, identity))
  }

  private def eventually(holds: => Boolean): Unit = {
    val deadline = System.nanoTime() + 10000000000L
    while (!holds) {
      assert(System.nanoTime() < deadline, "it did not happen within 10 s")
      Thread.sleep(5)
    }
  }

  /** A worker without threads of its own, which says what it is told to say. */
  private def puppet(s: Rendezvous, rank: Int): (Socket, DataOutputStream) = {
    val socket = new Socket(host, s.port)
    val out = new DataOutputStream(socket.getOutputStream)
    Wire.prove(new DataInputStream(socket.getInputStream), out, secret, asDriver = false)
    val hello = Wire.json.createObjectNode().put("type", "hello").put("rank", rank).put("process", "p")
    Wire.write(out, hello.put("host", "h").put("port", 1).put("executor", "7"))
    (socket, out)
  }

  private def message(kind: String) = Wire.json.createObjectNode().put("type", kind)

  test("all workers hear of all workers, by rank") {
    val s = server(3)
    val clients = Seq(2, 0, 1).map(client(s, _))
    val met = concurrently(clients.map(c => () => c.meet(() => c.check())))
    assert(met.forall(_.map(_.port) == Seq(1000, 1001, 1002)))
    assert(met.head.map(_.process) == Seq("p0", "p1", "p2"))
    clients.foreach(_.done())
    assert(s.firstCause().isEmpty)
    clients.foreach(_.close())
    s.close()
  }

  test("a stranger is turned away, both ways, and the others still meet") {
    val s = server(1)
    val e = intercept[UnauthenticatedException](client(s, 0, secret = Wire.secret()))
    assert(e.getMessage.contains("did not prove that it knows the job's secret"))
    val noise = new java.net.Socket(host, s.port)
    noise.getOutputStream.write(new Array[Byte](100))
    noise.close()
    val c = client(s, 0)
    assert(c.meet(() => c.check()).length == 1)
    c.close()
    s.close()
  }

  test("a worker's failure ends the wait of the others and is the first cause") {
    val s = server(2)
    val (a, b) = (client(s, 0), client(s, 1))
    b.failed(new IllegalArgumentException("column x holds NULL"))
    val e = intercept[CancelledException](a.meet(() => a.check()))
    assert(e.getMessage == "worker 1 (executor e1 on 127.0.0.1) failed: column x holds NULL")
    a.failed(e)
    val cause = s.firstCause().get
    assert(cause.peer.rank == 1 && cause.exception == classOf[IllegalArgumentException].getName)
    Seq(a, b, s).foreach(_.close())
  }

  test("a worker that leaves without a word is lost, by name") {
    val s = server(2)
    val (a, b) = (client(s, 0), client(s, 1))
    b.close()
    val e = intercept[CancelledException](a.meet(() => a.check()))
    val message = "worker 1 (executor e1 on 127.0.0.1) was lost: its connection to the driver ended"
    assert(e.getMessage == message)
    // What follows from it comes after it.
    a.failed(new PeerLostException("rank 1 is gone"))
    assert(s.firstCause().get.message == message)
    Seq(a, s).foreach(_.close())
  }

  test("a worker that falls silent is lost before the deadline") {
    val s = server(1, silenceMs = 300)
    val (socket, _) = puppet(s, 0)
    val started = System.nanoTime()
    eventually(s.firstCause().nonEmpty)
    assert(s.firstCause().get.message == "worker 0 (executor 7 on h) was lost: it said nothing for 0.3 s")
    assert(System.nanoTime() - started < 5e9)
    socket.close()
    s.close()
  }

  test("a driver that is gone ends the wait of its workers") {
    val s = server(2)
    val a = client(s, 0)
    s.close()
    val e = intercept[PeerLostException](a.meet(() => a.check()))
    assert(e.getMessage.startsWith("worker 0 (executor e0 on 127.0.0.1) lost the driver at 127.0.0.1:"))
    a.close()
  }

  test("events reach the driver") {
    val heard = new AtomicReference[JsonNode]()
    val s = server(1, onEvent = heard.set(_))
    val c = client(s, 0)
    c.event(Wire.json.createObjectNode().put("event", "epoch").put("epoch", 3))
    c.done()
    assert(s.firstCause().isEmpty)
    eventually(heard.get != null)
    assert(heard.get.get("epoch").asInt() == 3)
    c.close()
    s.close()
  }

  test("a worker that cannot hear who the others are is lost, not the one that came last") {
    val (busy, go) = (new CountDownLatch(1), new CountDownLatch(1))
    val s = server(2, onEvent = { _ => busy.countDown(); go.await() })
    // Its connection is reset while the driver is still at what it said: the driver has not noticed its end.
    val (socket, out) = puppet(s, 0)
    Wire.write(out, message("ready"))
    Wire.write(out, message("event").set[JsonNode]("event", message("epoch")))
    assert(busy.await(10, TimeUnit.SECONDS))
    socket.setSoLinger(true, 0)
    socket.close()
    val b = client(s, 1)
    val lost = "worker 0 (executor 7 on h) was lost: its connection to the driver ended"
    val e = intercept[CancelledException] {
      b.meet(() => b.check())
      eventually { b.check(); false }
    }
    assert(e.getMessage == lost)
    go.countDown()
    assert(s.firstCause().get.message == lost)
    Seq(b, s).foreach(_.close())
  }

  test("the driver waits for what workers said last") {
    val heard = new AtomicInteger
    val s = server(2, onEvent = { _ => Thread.sleep(50); heard.incrementAndGet() })
    val clients = Seq(0, 1).map(client(s, _))
    for (_ <- 1 to 10) clients.head.event(message("epoch"))
    clients.foreach { c => c.done(); c.close() }
    s.awaitAll()
    assert(heard.get == 10)
    s.close()
  }

  test("a collection of garbage on either side is no loss") {
    assert(Liveness.silenceMs(timeoutSeconds = 300) > 30000)
    assert(Liveness.silenceMs(timeoutSeconds = 1e9) == Liveness.mostSilentMs)
    assert(Liveness.silenceMs(timeoutSeconds = 0.2) == 200)
    for (silence <- Seq(200, 5000, Liveness.mostSilentMs)) assert(4 * Liveness.beatMs(silence) <= silence)
  }
}
