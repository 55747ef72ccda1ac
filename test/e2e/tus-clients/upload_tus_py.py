"""Uploads a file with tus.py: upload_tus_py.py URL FILE."""

import os
import sys
import time

import requests
import tus

url, path = sys.argv[1:]
with open(path, "rb") as file:
    location = tus.create(url, "ä b.png", os.path.getsize(path), metadata={"filetype": "image/png"})
    while True:
        try:
            # Asks for the offset first.
            tus.resume(file, location, chunk_size=1024 * 1024)
            break
        except requests.ConnectionError:
            time.sleep(0.1)
        except tus.TusError as failure:
            print(failure.response.status_code, failure.response.text)
            sys.exit(1)
print("done")
