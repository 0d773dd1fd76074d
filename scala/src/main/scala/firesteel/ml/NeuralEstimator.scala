package firesteel.ml

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.ObjectNode
import org.apache.spark.ml.param.Params
import org.apache.spark.sql.Dataset
import org.apache.spark.sql.types.StructType

/** What both estimators share: from params to a run of [[DistributedTraining]]. */
private[ml] trait NeuralEstimator extends NeuralTrainingParams { this: Params =>

  /** Trains on a dataset; `task` is classification or regression. */
  private[ml] def trainNetwork(dataset: Dataset[_], task: String): ModelFiles = {
    val columns = trainingColumns(dataset.schema)
    val console = if ($(showProgress)) Seq(ConsoleListener) else Seq.empty
    val settings = TrainingSettings(
      $(numWorkers),
      $(batchSize),
      Liveness.silenceMs($(timeoutSeconds)),
      $(checkpointDir),
      $(maxRetries),
      console ++ Option(listeners).getOrElse(Vector.empty)
    )
    val name = s"${getClass.getSimpleName} $uid"
    val files = new DistributedTraining(name, columns, config(task, columns), settings).run(dataset)
    new ModelFiles(files)
  }

  /** Refuses what cannot be trained, before anything runs. */
  private[ml] def checkTraining(schema: StructType, task: String): Unit = {
    val columns = trainingColumns(schema)
    NativeLibrary.load()
    Native.checkNetwork($(network))
    Native.checkConfig(config(task, columns).toString)
  }

  /** What the native library reads: the same on every worker. */
  private[ml] def config(task: String, columns: TrainingColumns): ObjectNode = {
    val json = Wire.json.createObjectNode()
    json.put("task", task)
    if (task == "classification") columns.classes.foreach(n => json.put("classes", n))
    json.put("checkpoints", $(checkpointDir).nonEmpty)
    json.set[JsonNode]("network", Wire.json.readTree($(network)))
    json.set[JsonNode]("params", hyperParameters)
    val data = json.putObject("data")
    val features = data.putArray("features")
    columns.features.foreach { c =>
      val feature = features.addObject().put("column", c.name)
      if ($(inputShape).nonEmpty) {
        val shape = feature.putArray("shape")
        $(inputShape).foreach(s => shape.add(s))
      }
    }
    data.put("label", columns.label.name)
    columns.weight.foreach(c => data.put("weight", c.name))
    columns.validation.foreach(c => data.put("validation", c.name))
    json
  }
}
