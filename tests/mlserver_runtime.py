"""What MLServer runs for ``v2_server.py``: an ONNX classifier that answers with probabilities or with names.

It is loaded by MLServer's own interpreter, which has onnxruntime but neither torch nor medmark.
"""

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxClassifier(MLModel):
    async def load(self) -> bool:
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        logits = self.session.run(None, {self.session.get_inputs()[0].name: images})[0]
        classes = self.settings.parameters.extra["classes"]
        if classes:
            output = StringCodec.encode_output("label", [classes[i] for i in logits.argmax(axis=1)])
        else:
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            output = NumpyCodec.encode_output("probabilities", powers / powers.sum(axis=1, keepdims=True))
        return InferenceResponse(model_name=self.name, outputs=[output])
