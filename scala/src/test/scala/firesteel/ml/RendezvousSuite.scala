package firesteel.ml

import java.util.concurrent.atomic.AtomicReference

import com.fasterxml.jackson.databind.JsonNode
import org.scalatest.funsuite.AnyFunSuite

/** The server on the driver where workers meet. */
class RendezvousSuite extends AnyFunSuite {
  private val host = "127.0.0.1"
  private val secret = Wire.secret()

  private def server(world: Int, timeoutMs: Int = 5000, onEvent: JsonNode => Unit = _ => ()) =
    new Rendezvous(host, world, secret, timeoutMs, onEvent)

  private def client(s: Rendezvous, rank: Int, secret: Array[Byte] = secret, timeoutMs: Int = 5000) =
    new RendezvousClient(host, s.port, secret, Peer(rank, s"p$rank", host, 1000 + rank, s"e$rank"), timeoutMs)

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
    val s = server(1, timeoutMs = 300)
    val socket = new java.net.Socket(host, s.port)
    val in = new java.io.DataInputStream(socket.getInputStream)
    val out = new java.io.DataOutputStream(socket.getOutputStream)
    Wire.prove(in, out, secret, asDriver = false)
    val hello = Wire.json.createObjectNode().put("type", "hello").put("rank", 0).put("process", "p")
    Wire.write(out, hello.put("host", "h").put("port", 1).put("executor", "7"))
    val started = System.nanoTime()
    while (s.firstCause().isEmpty) {}
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
    while (heard.get == null) Thread.sleep(5)
    assert(heard.get.get("epoch").asInt() == 3)
    c.close()
    s.close()
  }
}
