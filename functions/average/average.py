"""The mean of numbers that are separated by commas: 0,1,1 gives 0.666666666667."""


def handle(req):
    numbers = [float(word) for word in req.split(",")]
    return sum(numbers) / len(numbers)
