"""Uploads a file with tuspy: upload_tuspy.py URL FILE."""

import sys

from tusclient.client import TusClient
from tusclient.exceptions import TusUploadFailed

url, path = sys.argv[1:]
uploader = TusClient(url).uploader(
    path,
    chunk_size=1024 * 1024,
    metadata={"filename": "ä b.png", "filetype": "image/png"},
    retries=20,
    retry_delay=0.1,
    upload_checksum=True,
)
try:
    uploader.upload()
except TusUploadFailed as failure:
    print(failure.status_code, failure.response_content.decode())
    sys.exit(1)
# The origin's answer is the response to the last request.
print(uploader.request.status_code, uploader.request.response_content.decode())
