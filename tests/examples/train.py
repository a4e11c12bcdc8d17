"""Train a net on pictures of digits, on every rank that was started."""

from mpi4py import MPI

from nn import SGD, data, mlp
from strategies import DataParallel, train

digits = data.load("digits", size=10_000)
model, judge = mlp([784, 256, 128, 10]), mlp([784, 256, 128, 10])
strategy = DataParallel(model, SGD(0.03, momentum=0.9), MPI.COMM_WORLD)


def accuracy(weights):
    judge.params[:] = weights
    return {"accuracy": (judge.predict(digits.x_test) == digits.y_test).mean()}


history = train(strategy, digits, batch_size=128, epochs=3, evaluate=accuracy)
for epoch in history.evaluations:
    if strategy.comm.rank == 0:
        print(
            f"{epoch.seconds:5.2f} s: {epoch.values['accuracy']:.1%} of the test digits are right"
        )
assert history.evaluations[-1].values["accuracy"] > 0.93
