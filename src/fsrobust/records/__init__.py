"""What is written to disk: atomic, with its format, its digest and where it came from."""

from fsrobust.records.arrays import check_npz as check_npz
from fsrobust.records.arrays import read_npz as read_npz
from fsrobust.records.arrays import write_npz as write_npz
from fsrobust.records.documents import FORMAT as FORMAT
from fsrobust.records.documents import Metrics as Metrics
from fsrobust.records.documents import digest_of as digest_of
from fsrobust.records.documents import read_config as read_config
from fsrobust.records.documents import read_json as read_json
from fsrobust.records.documents import write_json as write_json
from fsrobust.records.files import digest as digest
from fsrobust.records.files import digest_of_file as digest_of_file
from fsrobust.records.files import is_damage as is_damage
from fsrobust.records.files import move_aside as move_aside
from fsrobust.records.files import sync_folder as sync_folder
from fsrobust.records.files import write_bytes as write_bytes
from fsrobust.records.locks import locked as locked
from fsrobust.records.origin import package_version as package_version
from fsrobust.records.origin import provenance as provenance
