"""The sections of the page. A new section is a file here, its template in templates/sections, and a line in SECTIONS."""

from dinolab.report.sections import (
    again,
    configuration,
    curves,
    data,
    environment,
    evaluations,
    glance,
    learned,
    speed,
    ways,
)
from dinolab.report.sections.section import Section

SECTIONS = [
    Section("glance", "", glance.build),
    Section("ways", "Ways to a network", ways.build),
    Section("evaluations", "Evaluations", evaluations.build),
    Section("learned", "What it learned", learned.build),
    Section("curves", "Curves", curves.build),
    Section("data", "Data", data.build),
    Section("configuration", "Configuration", configuration.build),
    Section("speed", "Speed and memory", speed.build),
    Section("environment", "Environment", environment.build),
    Section("again", "Commands to repeat it", again.build),
]
