"""Deep learning inside Spark jobs, from PySpark.

>>> from firesteel.ml import NeuralClassifier
>>> from firesteel.network import Mlp
>>> model = NeuralClassifier(featuresCol="pixels", network=Mlp(512, 256), epochs=5).fit(train)
>>> model.transform(test).select("prediction").show()
"""

from firesteel._version import __version__
from firesteel.jars import jar_path

__all__ = ["__version__", "jar_path"]
