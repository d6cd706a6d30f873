"""Hooks that keep state in objects: attributes, classes, properties, operators, bound methods."""

# ruff: noqa: B006, B007, B023, E731, F841

import functools

from .catalogue import must_be_found

CACHE: dict = {}


class Counter:
    step = 0


class Box:
    pass


@must_be_found
def keeps_object():
    class P:
        def __init__(self):
            self.n = 0

        def __call__(self, args):
            return self.go(args)

        def go(self, args):
            self.n += 1
            return args

    return P()


@must_be_found
def keeps_bound():
    class P:
        hist = []

        def go(self, args):
            self.hist.append(args)
            return args

    return P().go


@must_be_found
def keeps_class_attribute():
    def hook(args):
        Counter.step += 1
        return args

    return hook


@must_be_found
def keeps_setattr():
    b = Box()

    def hook(args):
        b.x = args
        return args

    return hook


@must_be_found
def keeps_dunder_dict():
    b = Box()

    def hook(args):
        b.__dict__["x"] = args
        vars(b)["y"] = args
        return args

    return hook


@must_be_found
def keeps_guider_attr():
    def hook(executor, *args):
        executor.class_obj.last = args
        return executor(*args)

    return hook


@must_be_found
def keeps_type_self():
    class P:
        n = 0

        def __call__(self, args):
            type(self).n += 1
            return args

    return P()


@must_be_found
def keeps_super():
    class A:
        def __call__(self, args):
            self.n = args
            return args

    class B(A):
        def __call__(self, args):
            return super().__call__(args)

    return B()


@must_be_found
def keeps_property():
    class P:
        def __init__(self):
            self._n = 0

        @property
        def n(self):
            self._n += 1
            return self._n

        def __call__(self, args):
            return args * self.n

    return P()


@must_be_found
def keeps_in_context():
    class Context:
        entered = 0

        def __enter__(self):
            self.entered += 1

        def __exit__(self, *error):
            pass

    context = Context()

    def hook(args):
        with context:
            return args

    return hook


@must_be_found
def keeps_in_operator():
    class Total:
        total = 0

        def __add__(self, other):
            self.total += other
            return self.total

    total = Total()
    return lambda args: total + args


@must_be_found
def keeps_in_attribute_of_class():
    class Counted:
        def __get__(self, instance, owner):
            Counter.step += 1
            return Counter.step

    class Hook:
        step = Counted()

        def __call__(self, args):
            return args * self.step

    return Hook()


@must_be_found
def keeps_behind_class_as_decorator():
    class Counting:
        def __init__(self, function):
            functools.update_wrapper(self, function)
            self.function, self.calls = function, 0

        def __call__(self, *args):
            self.calls += 1
            return self.function(*args)

    @Counting
    def hook(args):
        return args

    return hook


@must_be_found
def keeps_by_bound_method():
    seen = []
    keep = seen.append

    def hook(args):
        keep(args)
        return args

    return hook


@must_be_found
def keeps_by_bound_setattr():
    keep = functools.partial(setattr, Box(), "last")

    def hook(args):
        keep(args)
        return args

    return hook


@must_be_found
def keeps_loop():
    blocks = [Box(), Box()]

    def hook(args):
        for i, b in enumerate(blocks):
            b.last = args
        return args

    return hook


@must_be_found
def keeps_comprehension():
    blocks = [[], []]

    def hook(args):
        [b.append(args) for b in blocks]
        return args

    return hook


@must_be_found
def keeps_cls_instance():
    class Run:
        def __init__(self, o):
            self.o = o

        def go(self, args):
            CACHE["x"] = args
            return args

    def hook(args):
        return Run(1).go(args)

    return hook
