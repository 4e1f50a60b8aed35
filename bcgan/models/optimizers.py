"""Adam and AdamW that update each variable by one of TensorFlow's kernels, where Keras starts a dozen.

The formula is Keras's, and so are the names of the variables: a checkpoint of one can be read by the other.
"""

from collections.abc import Iterable

import keras
import tensorflow as tf


class _OneKernelUpdate:
    """Replaces the updates of `keras.optimizers.Adam`; sparse gradients and several replicas are left to Keras."""

    def update_step(
        self, gradient: tf.Tensor | tf.IndexedSlices, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Update a variable and the two moments of its gradient in one kernel; replaces Keras's method."""
        if isinstance(gradient, tf.IndexedSlices) or self.amsgrad or _is_distributed():
            super().update_step(gradient, variable, learning_rate)
            return
        index = self._get_variable_index(variable)
        moments = (self._momentums[index].value, self._velocities[index].value)
        dtype = variable.dtype
        step = tf.cast(self.iterations, dtype) + 1
        beta_1, beta_2 = (tf.constant(beta, dtype) for beta in (self.beta_1, self.beta_2))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=moments[0].handle, v=moments[1].handle, beta1_power=beta_1**step,
            beta2_power=beta_2**step, lr=tf.cast(learning_rate, dtype), beta1=beta_1, beta2=beta_2,
            epsilon=self.epsilon, grad=tf.cast(gradient, dtype),
        )  # fmt: skip

    def _apply_weight_decay(self, variables: Iterable[keras.Variable]) -> None:
        """Subtract weight * learning rate * weight decay from each weight, in one kernel; replaces Keras's method."""
        if self.weight_decay is None or _is_distributed():
            super()._apply_weight_decay(variables)
            return
        for variable in variables:
            if self._use_weight_decay(variable):
                value = variable.value
                rate = tf.cast(self.learning_rate, value.dtype) * self.weight_decay
                tf.raw_ops.ResourceApplyGradientDescent(var=value.handle, alpha=rate, delta=value)


class Adam(_OneKernelUpdate, keras.optimizers.Adam):
    """`keras.optimizers.Adam`, updated by one kernel."""


class AdamW(_OneKernelUpdate, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`, updated by one kernel."""


def _is_distributed() -> bool:
    return tf.distribute.get_strategy().num_replicas_in_sync > 1
