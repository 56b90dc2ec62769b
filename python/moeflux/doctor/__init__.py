"""Examines an installation, its machine and one device, and writes down what it finds.

Changes nothing, and tells nothing about the user: hardware, versions, speeds and errors.
"""

from moeflux.doctor.examination import Report as Report
from moeflux.doctor.examination import examine as examine
from moeflux.doctor.findings import Finding as Finding
from moeflux.doctor.findings import Status as Status
