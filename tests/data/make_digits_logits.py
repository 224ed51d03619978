"""Makes digits_logits.npy and digits_labels.npy: held-out logits of a classifier on the UCI digits.

A multinomial logistic regression, left almost unregularised so that it is as
overconfident as larger models usually are, is fitted to half of the 1797 images of
``sklearn.datasets.load_digits`` (8×8 pixels, 10 classes); the files hold its logits (float32,
(899, 10)) and the true digits (int64, (899,)) of the other half.

Run once, with scikit-learn 1.9.1:  python tests/data/make_digits_logits.py
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

images, digits = load_digits(return_X_y=True)
images_train, images_test, digits_train, digits_test = train_test_split(
    images / 16.0, digits, test_size=0.5, random_state=0, stratify=digits
)
model = LogisticRegression(C=1000.0, max_iter=20000).fit(images_train, digits_train)

folder = Path(__file__).parent
np.save(folder / "digits_logits.npy", model.decision_function(images_test).astype(np.float32))
np.save(folder / "digits_labels.npy", digits_test.astype(np.int64))
